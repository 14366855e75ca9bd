-- What compose.yaml runs in a new database: a table, and a webhook that sends its rows to the
-- receiver, signed with the secret that the receiver has, too.

\getenv secret WEBHOOK_SECRET

CREATE EXTENSION chatwebhook;

CREATE TABLE lead (id int GENERATED ALWAYS AS IDENTITY, bot text, email text NOT NULL, summary text NOT NULL);

SELECT chatwebhook.watch('lead', 'lead.captured',
    '{"chatbotId": "bot", "email": "email", "source": "@widget", "conversationSummary": "summary"}');

SELECT id FROM chatwebhook.create_webhook(
    name => 'receiver', url => 'http://receiver:8080/', events => '{lead.*}', secret => :'secret');
