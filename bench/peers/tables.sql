-- The step on PostgreSQL: one guarded UPDATE, one INSERT, in one statement, so one round trip and one commit.
-- :'patch' and :'entry' are what reactor writes, as JSON. Lines of JSON are copied into `raw`.

CREATE TABLE conversations (
    id text PRIMARY KEY,
    version integer NOT NULL,
    due_at timestamptz,
    document jsonb NOT NULL
);
CREATE INDEX ON conversations (due_at);

CREATE TABLE messages (
    id text PRIMARY KEY,
    conversation_id text NOT NULL,
    address text NOT NULL,
    recorded_at timestamptz NOT NULL,
    document jsonb NOT NULL
);
CREATE INDEX ON messages (conversation_id);
CREATE INDEX ON messages (address, recorded_at);

CREATE TABLE written (patch jsonb NOT NULL, entry jsonb NOT NULL);
INSERT INTO written VALUES (:'patch', :'entry');

CREATE FUNCTION step(identity text) RETURNS void LANGUAGE sql AS $$
    WITH moved AS (
        UPDATE conversations
        SET version = version + 1, due_at = now() + interval '20 days', document = document || patch
        FROM written
        WHERE id = identity AND version = 0
        RETURNING id, document->'address_keys'->>0 AS key, document->'recipient'->>'id' AS recipient, entry
    )
    INSERT INTO messages
    SELECT id || '/intro/0', id, key, now(), entry || jsonb_build_object(
        '_id', id || '/intro/0', 'conversation_id', id, 'recipient_id', recipient,
        'address', key, 'to', split_part(key, ':', 2)
    )
    FROM moved
$$;

CREATE TABLE raw (document jsonb NOT NULL);
