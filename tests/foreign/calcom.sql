-- Cal.com 5: Prisma; names that only quotes can write, enums, a table without a primary key. As its schema.prisma makes them.
-- Some tables of many, some columns left out, and made-up rows.

CREATE TYPE "IdentityProvider" AS ENUM ('CAL', 'GOOGLE', 'SAML');
CREATE TYPE "UserPermissionRole" AS ENUM ('USER', 'ADMIN');
CREATE TYPE "MembershipRole" AS ENUM ('MEMBER', 'ADMIN', 'OWNER');
CREATE TYPE "SMSLockState" AS ENUM ('LOCKED', 'UNLOCKED', 'REVIEW_NEEDED');
CREATE TABLE "Team" (
    id serial PRIMARY KEY, name text NOT NULL, slug text, bio text, "hideBranding" boolean NOT NULL DEFAULT false,
    "createdAt" timestamp(3) NOT NULL DEFAULT now(), metadata jsonb, "parentId" int REFERENCES "Team"
);
CREATE TABLE users (
    id serial PRIMARY KEY, username text, name text, email text NOT NULL UNIQUE, "emailVerified" timestamp(3), bio text,
    "avatarUrl" text, "timeZone" text NOT NULL DEFAULT 'Europe/London', "weekStart" text NOT NULL DEFAULT 'Sunday',
    "startTime" int NOT NULL DEFAULT 0, "endTime" int NOT NULL DEFAULT 1440,
    "hideBranding" boolean NOT NULL DEFAULT false, theme text, created timestamp(3) NOT NULL DEFAULT now(),
    "trialEndsAt" timestamp(3), "completedOnboarding" boolean NOT NULL DEFAULT false, locale text,
    "twoFactorSecret" text, "twoFactorEnabled" boolean NOT NULL DEFAULT false, "backupCodes" text,
    "identityProvider" "IdentityProvider" NOT NULL DEFAULT 'CAL', "identityProviderId" text, "invitedTo" int,
    metadata jsonb, verified boolean DEFAULT false, role "UserPermissionRole" NOT NULL DEFAULT 'USER',
    "organizationId" int REFERENCES "Team", locked boolean NOT NULL DEFAULT false,
    "smsLockState" "SMSLockState" NOT NULL DEFAULT 'UNLOCKED'
);
CREATE TABLE "UserPassword" (hash text NOT NULL, "userId" int NOT NULL REFERENCES users);
CREATE UNIQUE INDEX "UserPassword_userId_key" ON "UserPassword" ("userId");
CREATE TABLE "TravelSchedule" (
    id serial PRIMARY KEY, "userId" int NOT NULL REFERENCES users, "timeZone" text NOT NULL,
    "startDate" timestamp(3) NOT NULL, "endDate" timestamp(3), "prevTimeZone" text
);
CREATE TABLE "Membership" (
    id serial PRIMARY KEY, "teamId" int NOT NULL REFERENCES "Team", "userId" int NOT NULL REFERENCES users,
    accepted boolean NOT NULL DEFAULT false, role "MembershipRole" NOT NULL,
    "disableImpersonation" boolean NOT NULL DEFAULT false, UNIQUE ("userId", "teamId")
);
CREATE TABLE "Profile" (
    id serial PRIMARY KEY, uid text NOT NULL, "userId" int NOT NULL REFERENCES users,
    "organizationId" int NOT NULL REFERENCES "Team", username text NOT NULL,
    "createdAt" timestamp(3) NOT NULL DEFAULT now(), "updatedAt" timestamp(3) NOT NULL
);
CREATE TABLE "Credential" (
    id serial PRIMARY KEY, type text NOT NULL, key jsonb NOT NULL, "userId" int REFERENCES users,
    "teamId" int REFERENCES "Team", "appId" text, invalid boolean DEFAULT false
);

INSERT INTO "Team" (name) VALUES ('one'), ('two');
INSERT INTO users (username, name, email, "emailVerified", created, locale, "backupCodes", "identityProvider", metadata,
                   "organizationId", "timeZone")
    SELECT 'user' || n, 'Name ' || n, 'u' || n || '@example.org', '2024-01-01 10:00:00.123', timestamp '2024-05-01' +
        n * interval '1.5 s', (ARRAY['de', 'fr'])[1 + n % 2], 'codes', (ARRAY['CAL', 'SAML'])[1 + n % 2]::"IdentityProvider",
        '{"a": 1.0}', n % 3 + NULLIF(n % 3, 0) * 0, 'Europe/Berlin' FROM generate_series(1, 16) n;
INSERT INTO "UserPassword" SELECT 'bcrypt', id FROM users WHERE id % 2 = 0;
INSERT INTO "TravelSchedule" ("userId", "timeZone", "startDate")
    SELECT id, 'Asia/Tokyo', '2025-01-01 00:00:00.5' FROM users WHERE id < 9;
INSERT INTO "Membership" ("teamId", "userId", role) SELECT t.id, u.id, 'OWNER' FROM users u, "Team" t WHERE u.id < 6;
INSERT INTO "Profile" (uid, "userId", "organizationId", username, "updatedAt")
    SELECT 'uid' || id, id, 1, username, now() FROM users WHERE id < 4;
