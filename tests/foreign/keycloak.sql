-- Keycloak 26: texts as keys, keys of two columns, no time but milliseconds. As its Liquibase changelogs make them.
-- Some tables of many, some columns left out, and made-up rows.

CREATE TABLE user_entity (
    id varchar(36) NOT NULL PRIMARY KEY, email varchar(255), email_constraint varchar(255),
    email_verified boolean NOT NULL DEFAULT false, enabled boolean NOT NULL DEFAULT false,
    federation_link varchar(255), first_name varchar(255), last_name varchar(255), realm_id varchar(255),
    username varchar(255), created_timestamp bigint, service_account_client_link varchar(255),
    not_before int NOT NULL DEFAULT 0, UNIQUE (realm_id, email_constraint), UNIQUE (realm_id, username)
);
CREATE TABLE user_attribute (
    name varchar(255) NOT NULL, value varchar(255), user_id varchar(36) NOT NULL REFERENCES user_entity,
    id varchar(36) NOT NULL PRIMARY KEY, long_value_hash bytea, long_value_hash_lower_case bytea, long_value text
);
CREATE TABLE credential (
    id varchar(36) NOT NULL PRIMARY KEY, salt bytea, type varchar(255), user_id varchar(36) REFERENCES user_entity,
    created_date bigint, user_label varchar(255), secret_data text, credential_data text, priority int,
    version int DEFAULT 0
);
CREATE TABLE user_role_mapping (
    role_id varchar(255) NOT NULL, user_id varchar(36) NOT NULL REFERENCES user_entity, PRIMARY KEY (role_id, user_id)
);
CREATE TABLE user_required_action (
    user_id varchar(36) NOT NULL REFERENCES user_entity, required_action varchar(255) NOT NULL DEFAULT ' ',
    PRIMARY KEY (required_action, user_id)
);
CREATE TABLE user_group_membership (
    group_id varchar(36) NOT NULL, user_id varchar(36) NOT NULL REFERENCES user_entity,
    membership_type varchar(255) NOT NULL, PRIMARY KEY (group_id, user_id)
);
CREATE TABLE federated_identity (
    identity_provider varchar(255) NOT NULL, realm_id varchar(36), federated_user_id varchar(255),
    federated_username varchar(255), token text, user_id varchar(36) NOT NULL REFERENCES user_entity,
    PRIMARY KEY (identity_provider, user_id)
);
CREATE TABLE user_consent (
    id varchar(36) NOT NULL PRIMARY KEY, client_id varchar(255), user_id varchar(36) NOT NULL REFERENCES user_entity,
    created_date bigint, last_updated_date bigint, client_storage_provider varchar(36), external_client_id varchar(255)
);
CREATE TABLE user_consent_client_scope (
    user_consent_id varchar(36) NOT NULL REFERENCES user_consent, scope_id varchar(36) NOT NULL,
    PRIMARY KEY (user_consent_id, scope_id)
);

INSERT INTO user_entity
    SELECT md5(n::text)::uuid, 'u' || n || '@example.org', 'u' || n || '@example.org', n % 2 = 0, n % 9 <> 0,
        NULL, 'First ' || n, NULLIF('Last ' || n, 'Last 4'), CASE WHEN n % 3 = 0 THEN 'master' ELSE 'shop' END,
        'user' || n, CASE WHEN n % 7 <> 0 THEN 1700000000000 + n END, NULL, n
    FROM generate_series(1, 16) n;
INSERT INTO user_attribute (name, value, user_id, id, long_value_hash, long_value)
    SELECT 'locale', 'de', id, left(md5(id), 36), '\x00ff', repeat('é', 300) FROM user_entity LIMIT 9;
INSERT INTO credential (id, type, user_id, secret_data) SELECT left(md5(id), 36), 'password', id, '{}' FROM user_entity;
INSERT INTO user_role_mapping SELECT 'role-' || n, id FROM user_entity, generate_series(1, 3) n WHERE enabled;
INSERT INTO user_required_action SELECT id, 'VERIFY_EMAIL' FROM user_entity WHERE NOT email_verified;
INSERT INTO user_group_membership SELECT 'staff', id, 'MANAGED' FROM user_entity LIMIT 5;
INSERT INTO federated_identity SELECT 'github', realm_id, '77', username, 'gho_x', id FROM user_entity LIMIT 4;
INSERT INTO user_consent SELECT left(md5(id || 'c'), 36), 'app', id, 17, 18, NULL, NULL FROM user_entity LIMIT 6;
