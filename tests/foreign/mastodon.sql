-- Mastodon 4.5: Rails; 64-bit ids, arrays, many foreign keys. As its schema.rb makes them.
-- Some tables of many, some columns left out, and made-up rows.

CREATE TABLE accounts (
    id bigint PRIMARY KEY, username varchar NOT NULL DEFAULT '', domain varchar, private_key text,
    public_key text NOT NULL DEFAULT '', created_at timestamp NOT NULL, updated_at timestamp NOT NULL,
    note text NOT NULL DEFAULT '', display_name varchar NOT NULL DEFAULT '', uri varchar NOT NULL DEFAULT '',
    url varchar, avatar_file_name varchar, avatar_file_size int, avatar_updated_at timestamp,
    locked boolean NOT NULL DEFAULT false, protocol int NOT NULL DEFAULT 0, memorial boolean NOT NULL DEFAULT false,
    moved_to_account_id bigint REFERENCES accounts, fields jsonb, actor_type varchar, discoverable boolean,
    also_known_as varchar[], silenced_at timestamp, suspended_at timestamp, hide_collections boolean,
    suspension_origin int, trendable boolean, indexable boolean NOT NULL DEFAULT false,
    attribution_domains varchar[] DEFAULT '{}', id_scheme int DEFAULT 1
);
CREATE TABLE users (
    id bigserial PRIMARY KEY, email varchar NOT NULL DEFAULT '', created_at timestamp NOT NULL,
    updated_at timestamp NOT NULL, encrypted_password varchar NOT NULL DEFAULT '', reset_password_token varchar,
    reset_password_sent_at timestamp, sign_in_count int NOT NULL DEFAULT 0, confirmation_token varchar, locale varchar,
    consumed_timestep int, otp_required_for_login boolean NOT NULL DEFAULT false, otp_backup_codes varchar[],
    account_id bigint NOT NULL REFERENCES accounts, disabled boolean NOT NULL DEFAULT false, chosen_languages varchar[],
    sign_up_ip inet, role_id bigint, settings text, time_zone varchar, otp_secret varchar, age_verified_at timestamp(6)
);
CREATE TABLE account_stats (
    id bigserial PRIMARY KEY, account_id bigint NOT NULL UNIQUE REFERENCES accounts,
    statuses_count bigint NOT NULL DEFAULT 0, following_count bigint NOT NULL DEFAULT 0,
    followers_count bigint NOT NULL DEFAULT 0, created_at timestamp NOT NULL, updated_at timestamp NOT NULL,
    last_status_at timestamp
);
CREATE TABLE account_notes (
    id bigserial PRIMARY KEY, account_id bigint NOT NULL REFERENCES accounts,
    target_account_id bigint NOT NULL REFERENCES accounts, comment text NOT NULL, created_at timestamp NOT NULL,
    updated_at timestamp NOT NULL, UNIQUE (account_id, target_account_id)
);
CREATE TABLE account_migrations (
    id bigserial PRIMARY KEY, account_id bigint REFERENCES accounts, acct varchar NOT NULL DEFAULT '',
    followers_count bigint NOT NULL DEFAULT 0, target_account_id bigint REFERENCES accounts,
    created_at timestamp NOT NULL, updated_at timestamp NOT NULL
);
CREATE TABLE accounts_tags (
    account_id bigint NOT NULL REFERENCES accounts, tag_id bigint NOT NULL, PRIMARY KEY (tag_id, account_id)
);
CREATE TABLE statuses (
    id bigint PRIMARY KEY, uri varchar, text text NOT NULL DEFAULT '', created_at timestamp NOT NULL,
    updated_at timestamp NOT NULL, in_reply_to_id bigint, sensitive boolean NOT NULL DEFAULT false,
    visibility int NOT NULL DEFAULT 0, account_id bigint NOT NULL REFERENCES accounts,
    in_reply_to_account_id bigint REFERENCES accounts, ordered_media_attachment_ids bigint[], edited_at timestamp
);
CREATE TABLE bookmarks (
    id bigserial PRIMARY KEY, created_at timestamp NOT NULL, updated_at timestamp NOT NULL,
    account_id bigint NOT NULL REFERENCES accounts, status_id bigint NOT NULL REFERENCES statuses
);
CREATE TABLE status_stats (
    id bigserial PRIMARY KEY, status_id bigint NOT NULL REFERENCES statuses, replies_count bigint NOT NULL DEFAULT 0,
    created_at timestamp NOT NULL, updated_at timestamp NOT NULL
);

INSERT INTO accounts (id, username, domain, private_key, created_at, updated_at, fields, actor_type, discoverable,
                      also_known_as, suspended_at)
    SELECT 113000000000000000 + n * 1000001, 'user' || n, CASE WHEN n % 2 = 0 THEN 'example.org' END, 'PEM',
        timestamp '2024-01-01' + n * interval '1.000001 s', now(), '[{"name": "é", "value": 1.50}]',
        (ARRAY['Person', 'Service'])[1 + n % 2], n % 3 = 0, '{a,b}', timestamp '2024-01-01' + NULLIF(n, 5) * interval '1 h'
    FROM generate_series(1, 16) n;
INSERT INTO users (email, created_at, updated_at, account_id, sign_up_ip, locale)
    SELECT username || '@example.org', created_at, now(), id, '2001:db8::1', 'de' FROM accounts WHERE domain IS NULL;
INSERT INTO account_stats (account_id, created_at, updated_at, statuses_count)
    SELECT id, created_at, now(), 9007199254740993 FROM accounts;
INSERT INTO account_notes (account_id, target_account_id, comment, created_at, updated_at)
    SELECT a.id, b.id, 'note', now(), now() FROM accounts a JOIN accounts b ON b.id = a.id + 1000001;
INSERT INTO accounts_tags SELECT id, n FROM accounts, generate_series(1, 2) n WHERE domain IS NULL;
INSERT INTO statuses (id, text, created_at, updated_at, account_id)
    SELECT 114000000000000000 + n, 'status ' || n, now(), now(), 113000000000000000 + (n % 7 + 1) * 1000001
    FROM generate_series(1, 40) n;
INSERT INTO bookmarks (created_at, updated_at, account_id, status_id)
    SELECT now(), now(), account_id, id FROM statuses LIMIT 9;
