CREATE TYPE kyc_status AS ENUM ('PENDING', 'VERIFIED', 'REJECTED', 'EXPIRED');
CREATE TYPE account_type AS ENUM ('SAVINGS', 'CURRENT', 'WALLET', 'INVESTMENT');

CREATE TABLE users (
    user_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    first_name varchar(255) NOT NULL,
    last_name varchar(255) NOT NULL,
    email varchar(255) UNIQUE,
    phone varchar(20),
    date_of_birth date,
    address_line1 text,
    address_line2 text,
    city text,
    postal_code varchar(20),
    country char(2),
    region text DEFAULT 'NA',
    created_at timestamp DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE kyc_records (
    kyc_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES users (user_id) ON UPDATE CASCADE ON DELETE CASCADE,
    status kyc_status NOT NULL DEFAULT 'PENDING',
    verified_at timestamp,
    doc_type varchar(50),
    doc_reference varchar(255),
    updated_at timestamp NOT NULL DEFAULT now()
);

CREATE TABLE accounts (
    account_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL REFERENCES users (user_id) ON UPDATE CASCADE ON DELETE CASCADE,
    account_type account_type NOT NULL,
    account_no varchar(30) NOT NULL,
    balance numeric(18,4) NOT NULL DEFAULT 0,
    status varchar(20) DEFAULT 'OPEN',
    opened_at timestamp NOT NULL DEFAULT now()
);

-- Deleting or renumbering a user looks up the children, and so does whoever asks SQL for a profile.
CREATE INDEX ON kyc_records (user_id);
CREATE INDEX ON accounts (user_id);
