/*
 * examples/chat.sql
 *		A small chat schema, with a trigger for every event type.
 *
 * Run it in a database that has the extension:
 *
 *		psql -f examples/chat.sql
 *
 * All keys begin with the chatbot, so each chatbot's rows can be on a node of
 * their own: with Citus, see docs/replication.md.
 *
 * It shows two ways to make a trigger: CREATE TRIGGER with
 * chatwebhook.emit(), and chatwebhook.watch(), which writes the trigger for
 * you.
 */
\set ON_ERROR_STOP on

CREATE SCHEMA chat;
SET search_path = chat;

CREATE TABLE conversation (
    id          uuid DEFAULT gen_random_uuid(),
    chatbot_id  text NOT NULL,
    visitor_id  text NOT NULL,
    page_url    text NOT NULL,
    referrer    text,
    user_agent  text NOT NULL,
    metadata    jsonb NOT NULL DEFAULT '{}',
    started_at  timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    PRIMARY KEY (chatbot_id, id)
);

CREATE TABLE message (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    conversation_id uuid NOT NULL,
    chatbot_id      text NOT NULL,
    role            text NOT NULL CHECK (role IN ('user', 'assistant')),
    content         text NOT NULL,
    sentiment       text CHECK (sentiment IN ('positive', 'neutral', 'negative')),
    sentiment_score numeric(3, 2),
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chatbot_id, id),
    FOREIGN KEY (chatbot_id, conversation_id) REFERENCES conversation
);

CREATE TABLE lead (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    conversation_id uuid NOT NULL,
    chatbot_id      text NOT NULL,
    email           text NOT NULL,
    name            text,
    phone           text,
    company         text,
    summary         text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chatbot_id, id),
    FOREIGN KEY (chatbot_id, conversation_id) REFERENCES conversation
);

CREATE TABLE handoff (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    conversation_id uuid NOT NULL,
    chatbot_id      text NOT NULL,
    reason          text NOT NULL,
    urgency         text NOT NULL DEFAULT 'medium' CHECK (urgency IN ('low', 'medium', 'high')),
    visitor_name    text,
    visitor_email   text,
    history         jsonb NOT NULL DEFAULT '[]',
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chatbot_id, id),
    FOREIGN KEY (chatbot_id, conversation_id) REFERENCES conversation
);

CREATE TABLE feedback (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    conversation_id uuid NOT NULL,
    chatbot_id      text NOT NULL,
    rating          integer NOT NULL CHECK (rating BETWEEN 1 AND 5),
    comment         text,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chatbot_id, id),
    FOREIGN KEY (chatbot_id, conversation_id) REFERENCES conversation
);

CREATE TABLE opportunity (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    conversation_id uuid NOT NULL,
    chatbot_id      text NOT NULL,
    visitor_id      text NOT NULL,
    intent          text NOT NULL,
    estimated_value numeric(12, 2),
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chatbot_id, id),
    FOREIGN KEY (chatbot_id, conversation_id) REFERENCES conversation
);

/*
 * A trigger names the event type, then key=column pairs.  chatbotId and
 * conversationId go into the envelope, all other keys into data.
 */
CREATE TRIGGER conversation_started AFTER INSERT ON conversation
    FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit(
        'conversation.started', 'chatbotId=chatbot_id', 'conversationId=id',
        'visitorId=visitor_id', 'pageUrl=page_url', 'referrer',
        'userAgent=user_agent', 'metadata');

/* Emit on UPDATE, when ended_at is set. */
CREATE TRIGGER conversation_ended AFTER UPDATE OF ended_at ON conversation
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL)
    EXECUTE FUNCTION chatwebhook.emit(
        'conversation.ended', 'chatbotId=chatbot_id', 'conversationId=id',
        'visitorId=visitor_id', 'startedAt=started_at', 'endedAt=ended_at');

/* Two event types from one table, told apart by a condition. */
CREATE TRIGGER message_received AFTER INSERT ON message
    FOR EACH ROW WHEN (NEW.role = 'user')
    EXECUTE FUNCTION chatwebhook.emit(
        'message.received', 'chatbotId=chatbot_id', 'conversationId=conversation_id',
        'role', 'content', 'sentiment');

CREATE TRIGGER message_sent AFTER INSERT ON message
    FOR EACH ROW WHEN (NEW.role = 'assistant')
    EXECUTE FUNCTION chatwebhook.emit(
        'message.sent', 'chatbotId=chatbot_id', 'conversationId=conversation_id',
        'role', 'content', 'sentiment');

/* Emit only rows that meet a condition. */
CREATE TRIGGER sentiment_negative AFTER INSERT ON message
    FOR EACH ROW WHEN (NEW.sentiment = 'negative' AND NEW.sentiment_score >= 0.7)
    EXECUTE FUNCTION chatwebhook.emit(
        'sentiment.negative', 'chatbotId=chatbot_id', 'conversationId=conversation_id',
        'message=content', 'sentimentScore=sentiment_score');

/* A leading @ marks a constant. */
CREATE TRIGGER lead_captured AFTER INSERT ON lead
    FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit(
        'lead.captured', 'chatbotId=chatbot_id', 'conversationId=conversation_id',
        'email', 'name', 'phone', 'company', 'source=@chat widget',
        'conversationSummary=summary');

CREATE TRIGGER handoff_requested AFTER INSERT ON handoff
    FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit(
        'handoff.requested', 'chatbotId=chatbot_id', 'conversationId=conversation_id',
        'reason', 'urgency', 'visitorName=visitor_name',
        'visitorEmail=visitor_email', 'conversationHistory=history');

/*
 * For tables that are filled in bulk: one trigger call for all rows of a
 * statement.
 */
CREATE TRIGGER feedback_received AFTER INSERT ON feedback
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION chatwebhook.emit(
        'feedback.received', 'chatbotId=chatbot_id', 'conversationId=conversation_id',
        'rating', 'comment');

/* Let watch() write the trigger. */
SELECT chatwebhook.watch('opportunity', 'sales.opportunity',
                         '{"chatbotId": "chatbot_id",
                           "conversationId": "conversation_id",
                           "visitorId": "visitor_id",
                           "intent": "intent",
                           "estimatedValue": "estimated_value"}');

RESET search_path;
