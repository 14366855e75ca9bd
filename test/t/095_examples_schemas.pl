# Schemas that are not ours: examples/chatwoot.sql, ai_chat.sql and joined_ids.sql.
#
# Only rows as these applications write them can show that the watches there make
# the right events of them, and none of what is irrelevant.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Chatwebhook;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main');
my $json = JSON::PP->new->canonical->utf8(0);
my $examples = "$FindBin::RealBin/../../examples";

sql('ALTER SYSTEM SET chatwebhook.enabled = off');
$node->reload;

# A database with one of the schemas.
sub load_example
{
	my ($name) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION chatwebhook');
	my ($result, $out, $err) = $node->psql($name, slurp_file("$examples/$name.sql"));
	is($result, 0, "$name.sql can be loaded");
	unlike($err // '', qr/WARNING|ERROR/, 'without trouble');
	is(sql_in($name, 'SELECT count(*) FROM chatwebhook.watched WHERE problem IS NOT NULL'), 0, 'its watches have no problem');
	sql_in($name, q{INSERT INTO chatwebhook.webhook (name, url) VALUES ('all', 'https://example.com/')});
	# its events match the schemas of their types, or they would fail
	$node->safe_psql($name, slurp_file("$Chatwebhook::lib/schema_validator.sql"));
	sql_in($name, "ALTER DATABASE $name SET chatwebhook.schema_validator = 'public.validate'");
	return;
}

# The events of a statement, as type, chatbot, conversation and data.
sub events_of
{
	my ($database, $statement) = @_;
	sql_in($database, $statement);
	my $events = sql_in($database, q{SELECT coalesce(jsonb_agg(jsonb_build_array(type, chatbot_id, conversation_id, data) ORDER BY id), '[]')
		FROM chatwebhook.event});
	sql_in($database, 'DELETE FROM chatwebhook.event');
	is(sql_in($database, 'SELECT count(*) FROM chatwebhook.emit_failure'), 0, 'nothing has failed');
	return $json->decode($events);
}

# Chatwoot
load_example('chatwoot');
sql_in('chatwoot', q{INSERT INTO inboxes (channel_id, account_id, name, channel_type) VALUES (1, 1, 'Website', 'Channel::WebWidget')});
is_deeply(events_of('chatwoot', q{INSERT INTO contacts (account_id, name) VALUES (1, 'lively-sun-12')}), [], 'a visitor without an address is no lead');
my $uuid = '0192f0a4-0000-4000-8000-000000000001';
is_deeply(events_of('chatwoot', qq{INSERT INTO conversations (account_id, inbox_id, status, contact_id, display_id, uuid, additional_attributes)
	VALUES (1, 1, 2, 1, 1, '$uuid', '{"browser": {"browser_name": "Firefox", "platform_name": "Linux"}, "referer": "https://shop.example/pricing"}')}),
	[ [ 'conversation.started', '1', $uuid, { visitorId => 1, pageUrl => 'https://shop.example/pricing', userAgent => 'Firefox' } ] ],
	'a conversation with page and browser out of JSON');
is_deeply(events_of('chatwoot', q{INSERT INTO messages (content, account_id, inbox_id, conversation_id, message_type) VALUES ('Hi', 1, 1, 1, 0)}),
	[ [ 'message.received', '1', $uuid, { role => 'user', content => 'Hi' } ] ], 'an incoming message');
is_deeply(events_of('chatwoot', q{INSERT INTO messages (content, account_id, inbox_id, conversation_id, message_type) VALUES (NULL, 1, 1, 1, 0)}),
	[ [ 'message.received', '1', $uuid, { role => 'user', content => '' } ] ], 'one that is only a file');
is_deeply(events_of('chatwoot', q{INSERT INTO messages (content, account_id, inbox_id, conversation_id, message_type, private)
	VALUES ('Hello!', 1, 1, 1, 1, false), ('between us', 1, 1, 1, 1, true), ('X joined', 1, 1, 1, 2, false)}),
	[ [ 'message.sent', '1', $uuid, { role => 'assistant', content => 'Hello!' } ] ], 'an answer, but no private note and no activity');
is_deeply(events_of('chatwoot', q{UPDATE contacts SET email = 'zoe@example.com', name = 'Zoe', phone_number = '+4755501' WHERE id = 1}),
	[ [ 'lead.captured', '1', $uuid, { email => 'zoe@example.com', name => 'Zoe', phone => '+4755501', source => 'Website', conversationSummary => 'Hi' } ] ],
	'a lead with inbox, summary and conversation');
is_deeply(events_of('chatwoot', q{UPDATE contacts SET last_activity_at = now(), email = email WHERE id = 1}), [], 'an update of anything else is none');
is_deeply(events_of('chatwoot', q{UPDATE conversations SET last_activity_at = now(), assignee_id = 7 WHERE id = 1}), [], 'nor of a conversation');
is_deeply(events_of('chatwoot', q{UPDATE conversations SET status = 0 WHERE id = 1}),
	[ [ 'handoff.requested', '1', $uuid, { reason => 'The bot handed over', visitorName => 'Zoe', visitorEmail => 'zoe@example.com',
		conversationHistory => [ { role => 'user', content => 'Hi' }, { role => 'user', content => undef }, { role => 'assistant', content => 'Hello!' } ] } ] ],
	'a hand-off with its history');
is_deeply(events_of('chatwoot', q{UPDATE conversations SET status = 1 WHERE id = 1}),
	[ [ 'conversation.ended', '1', $uuid, { visitorId => 1 } ] ], 'an end');
is_deeply(events_of('chatwoot', q{INSERT INTO csat_survey_responses (account_id, conversation_id, message_id, rating, feedback_message, contact_id)
	VALUES (1, 1, 2, 5, 'Great', 1)}),
	[ [ 'feedback.received', '1', $uuid, { rating => 5, comment => 'Great' } ] ], 'feedback with its chatbot');

# An AI chat
load_example('ai_chat');
my $chat = '0192f0a4-0000-4000-8000-000000000002';
my $user = '0192f0a4-0000-4000-8000-000000000003';
is_deeply(events_of('ai_chat', qq{INSERT INTO "Chat" (id, title, "userId") VALUES ('$chat', 'Weather', '$user')}),
	[ [ 'conversation.started', undef, $chat, { visitorId => $user, pageUrl => 'app', userAgent => 'app', title => 'Weather' } ] ], 'a chat');
is_deeply(events_of('ai_chat', qq{INSERT INTO "Message_v2" ("chatId", role, parts) VALUES
	('$chat', 'user', '[{"type": "text", "text": "Will it"}, {"type": "file", "url": "x"}, {"type": "text", "text": "rain?"}]'),
	('$chat', 'assistant', '[{"type": "step-start"}, {"type": "text", "text": "No."}]'), ('$chat', 'system', '[]')}),
	[ [ 'message.received', undef, $chat, { role => 'user', content => "Will it\nrain?" } ],
	  [ 'message.sent', undef, $chat, { role => 'assistant', content => 'No.' } ] ], 'messages whose text is in parts');

# Ids behind joins
load_example('joined_ids');
sql_in('joined_ids', q{INSERT INTO support.bot (slug) VALUES ('helper')});
sql_in('joined_ids', q{INSERT INTO support.visit (bot_id, visitor, landing, agent) VALUES (1, 'v1', '/start', 'Firefox')});
is_deeply(events_of('joined_ids', 'INSERT INTO support.thread (visit_id) VALUES (1)'),
	[ [ 'conversation.started', 'helper', '1', { visitorId => 'v1', pageUrl => '/start', userAgent => 'Firefox' } ] ], 'a thread');
is_deeply(events_of('joined_ids', q{INSERT INTO support.message (thread_id, author, body) VALUES (1, 'visitor', 'Hi'), (1, 'bot', 'Hello')}),
	[ [ 'message.received', 'helper', '1', { role => 'user', content => 'Hi' } ] ], 'messages');
is_deeply([ map { [ @$_[ 0 .. 2 ] ] } @{ events_of('joined_ids', q{UPDATE support.thread SET closed_at = now()}) } ],
	[ [ 'conversation.ended', 'helper', '1' ] ], 'an end');

done_testing();
