# openapi(), and the types that receivers generate from it: docs/receiving.md.
#
# Only public tools can show that the document is one, and that what the worker
# really sends has the types that others make of it.  Their npm packages are in
# the directory that CHATWEBHOOK_NODE_MODULES names, or are got with npm; without
# npm, that is skipped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Chatwebhook;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $nodejs = $ENV{NODE} // 'node';
my $directory = PostgreSQL::Test::Utils::tempdir('openapi');
my $json = JSON::PP->new->utf8->canonical;

# Run a program: its output, and what it says of errors; undef if it fails.
sub output_of
{
	my (@command) = @_;
	my ($out, $err) = ('', '');
	my $ok = eval {
		IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err,
			IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	};
	diag("@command[0, 1]: ", $@ || "$out$err") if !$ok;
	return $ok ? $out : undef;
}

my $version = eval { qx($nodejs --version 2>/dev/null) } // '';
plan skip_all => "there is no Node.js of version 18 or later ($nodejs)" if $version !~ /^v(\d+)/ || $1 < 18;

my $modules = npm_packages('@readme/openapi-parser@9.0.0', 'openapi-typescript@7.13.0',
	'typescript@5.9.3', 'ajv@8.20.0', 'ajv-formats@3.0.1');
plan skip_all => 'the npm packages are not there, and could not be got' if !$modules;

my $receiver = start_receiver();
my $node = new_node('main');
create_webhook($node, name => 'all', events => [ '*', 'webhook.*' ]);

# A program's file.
sub write_file
{
	my ($name, $text) = @_;
	unlink "$directory/$name";
	append_to_file("$directory/$name", $text);
	return "$directory/$name";
}

#
# Events: of examples/chat.sql, the example of each type, our own types, the
# worker's own, and those whose values are as odd as schemas allow
#
$node->safe_psql('postgres', slurp_file("$FindBin::RealBin/../../examples/chat.sql"));
script(q{
	INSERT INTO chat.conversation (id, chatbot_id, visitor_id, page_url, user_agent)
		VALUES ('0192f0a4-0000-4000-8000-000000000001', 'shop', 'v-1', 'https://shop.example/', 'Firefox');
	INSERT INTO chat.message (conversation_id, chatbot_id, role, content, sentiment, sentiment_score)
		SELECT id, chatbot_id, r, 'Zoë said "no" \ 😀', s, x FROM chat.conversation,
			(VALUES ('user', NULL, NULL), ('user', 'negative', 0.93), ('assistant', 'neutral', 0)) AS m (r, s, x);
	INSERT INTO chat.lead (conversation_id, chatbot_id, email, summary) SELECT id, chatbot_id, 'not an address', '' FROM chat.conversation;
	INSERT INTO chat.handoff (conversation_id, chatbot_id, reason, history)
		SELECT id, chatbot_id, 'refund', '[{"role": "user", "content": null, "at": 17}]' FROM chat.conversation;
	INSERT INTO chat.feedback (conversation_id, chatbot_id, rating) SELECT id, chatbot_id, 5 FROM chat.conversation;
	INSERT INTO chat.opportunity (conversation_id, chatbot_id, visitor_id, intent, estimated_value)
		SELECT id, chatbot_id, 'v-1', 'buy', v FROM chat.conversation, (VALUES (12.50), (NULL)) AS e (v);
	UPDATE chat.conversation SET ended_at = now()});
script(q{
	INSERT INTO chatwebhook.event_type (name, required, schema, example, description) VALUES
		('order.bare', '{}', NULL, NULL, NULL),
		('order.keys', '{total,id}', NULL, '{"id": 1, "total": 2}', 'A type with "quotes", <tags> and */'),
		('order.any', '{}', 'true', '{"a": [1, null]}', NULL),
		('order', '{id}', '{"properties": {"total": {"type": "number"}}, "required": ["total"]}', '{"id": null, "total": 1}'::jsonb || '{"id": 7}', NULL),
		('order.tree', '{root}', '{"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://shop.example/tree",
			"$defs": {"part": {"type": "object", "required": ["name"], "additionalProperties": false,
				"properties": {"name": {"type": "string"}, "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}}}}},
			"properties": {"root": {"$ref": "#/$defs/part"}}, "additionalProperties": false}',
			'{"root": {"name": "a", "parts": [{"name": "b"}, {"name": "c", "parts": []}]}}', NULL);
	SELECT count(chatwebhook.emit(name, 'shop', 'c-1', coalesce(example, '{}'))) FROM chatwebhook.event_type;
	SELECT chatwebhook.emit('feedback.received', NULL, NULL, v::jsonb) FROM unnest(ARRAY[
		'{"rating": "five stars", "comment": null, "by": "v-1"}', '{"rating": true}']) AS v;
	SELECT chatwebhook.emit('conversation.started', NULL, NULL, '{"visitorId": 17, "pageUrl": "", "userAgent": "", "referrer": null, "metadata": [1]}');
	SET chatwebhook.traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
	SELECT chatwebhook.emit('sales.opportunity', NULL, NULL, '{"visitorId": "v", "intent": "buy", "estimatedValue": "about 5"}')});
create_webhook($node, name => 'gone', path => '/gone', events => ['order.bare']);
sql(q{SELECT chatwebhook.emit('order.bare', NULL, NULL, '{}')});
becomes_true(q{SELECT count(*) = 1 FROM chatwebhook.delivery WHERE event_type = 'webhook.alert' AND webhook_name = 'all' AND status = 'delivered'
	AND event_id IN (SELECT id FROM chatwebhook.event WHERE data ->> 'webhookName' = 'gone')}, 'an alert of a disabled webhook');
ok(wait_idle($node), 'everything was sent');
# past the checks, a type can have any name
script(q{SET session_replication_role = replica; INSERT INTO chatwebhook.event_type (name, required) VALUES ('odd "name"/~1', '{"odd key"}')});

my @deliveries = map { { headers => $_->{headers}, body => $_->{body} } } $receiver->log('all');
my %types = map { JSON::PP->new->utf8(0)->decode($_->{body})->{type} => 1 } @deliveries;
is(scalar keys %types, sql('SELECT count(*) - 1 FROM chatwebhook.event_type'), 'there are deliveries of every type');
my $lines = join '', map { JSON::PP->new->utf8(0)->canonical->encode($_) . "\n" } @deliveries;
utf8::encode($lines) if utf8::is_utf8($lines);
my $deliveries_file = write_file('deliveries.jsonl', $lines);

#
# The page's commands: get the document, and generate types
#
my $page = slurp_file("$FindBin::RealBin/../../docs/receiving.md");
my ($get, $generate) = $page =~ /^```sh\n(psql -XAt -d chat -c '.*?' >events\.json)\n(npx openapi-typescript events\.json --output events\.ts)\n```$/m;
ok($generate, 'the page has the commands');
{
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	(my $psql = $get) =~ s/-d chat/-d postgres/;
	is(output_of('sh', '-c', qq{cd "$directory" && $psql}), '', 'psql gets the document');
	# what npx would do, without asking a registry
	(my $tool = $generate) =~ s{^npx openapi-typescript}{"$nodejs" "$modules/node_modules/openapi-typescript/bin/cli.js"};
	isnt(output_of('sh', '-c', qq{cd "$directory" && $tool}), undef, 'openapi-typescript takes it');
}

#
# A public validator accepts it, and its schemas accept what is sent
#
my $n = @deliveries;
my $examples = sql('SELECT count(*) FROM chatwebhook.event_type WHERE example IS NOT NULL');
my $output = output_of($nodejs, "$Chatwebhook::lib/openapi.js", $modules, "$directory/events.json", $deliveries_file);
my ($problems, $counts) = ($output // '') =~ /^(.*?)(\{[^\n]*\})\n\z/s;
is($problems, '', 'the document, the examples and the deliveries are valid');
$counts = $json->decode($counts // '{}');
is($counts->{webhooks}, sql('SELECT count(*) FROM chatwebhook.event_type'), 'all types were examined');
is($counts->{examples}, $examples, 'all examples');
is($counts->{deliveries}, $n, 'all deliveries');
cmp_ok($counts->{headers}, '>', 6 * $n, 'their headers');
cmp_ok($counts->{damaged}, '>', 100, 'and damaged ones, which are not valid');

#
# The types: real bodies have them, and others have not
#
sub compile
{
	my ($name, $text) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ $nodejs, "$modules/node_modules/typescript/bin/tsc", '--strict', '--noEmit', '--exactOptionalPropertyTypes',
			'--target', 'es2022', '--module', 'es2022', '--moduleResolution', 'bundler', write_file($name, $text) ],
		'<', \undef, '>', \$out, '2>', \$err);
	return "$out$err";
}

my $head = <<'END';
import type { webhooks } from './events'
type Body<T extends keyof webhooks> = webhooks[T]['post']['requestBody']['content']['application/json']
END
my $constants = '';
my $number = 0;
foreach my $delivery (@deliveries)
{
	my $type = JSON::PP->new->utf8(0)->decode($delivery->{body})->{type};
	my $body = $delivery->{body};
	utf8::encode($body) if utf8::is_utf8($body);
	$constants .= sprintf "export const event%d: Body<'%s'> = %s\n", ++$number, $type, $body;
}
is(compile('deliveries.ts', "$head$constants"), '', "$n deliveries are constants of their types");
like(
	compile('wrong.ts', qq{${head}export const wrong: Body<'lead.captured'> = {"id":"","type":"lead.captured","timestamp":"","chatbotId":null,"conversationId":null,"data":{"email":1,"source":"","conversationSummary":""}}\n}),
	qr/^\S+wrong\.ts.*Type 'number' is not assignable to type 'string'/, 'an address that is a number is not one');
like(
	compile('lacking.ts', qq{${head}export const lacking: Body<'order.tree'> = {"id":"","type":"order.tree","timestamp":"","chatbotId":null,"conversationId":null,"data":{"root":{"parts":[]}}}\n}),
	qr/^\S+lacking\.ts.*'name' is missing/, "a reference within an own type's schema leads there");
like(
	compile('other.ts', qq{${head}export const other: Body<'order.any'> = {"id":"","type":"order.bare","timestamp":"","chatbotId":null,"conversationId":null,"data":{}}\n}),
	qr/^\S+other\.ts.*"order\.bare".*not assignable/, 'nor an event of another type');

my ($handler) = $page =~ /^```ts\n(.*?)^```$/ms;
is(compile('handler.ts', $handler), '', "the page's handler compiles");
(my $misspelled = $handler) =~ s/data\.email/data.mail/ or die 'no key in the handler';
like(compile('misspelled.ts', $misspelled =~ s/\$\{event\.data\.mail\}/\${event.data.mail.length}/r),
	qr/^\S+misspelled\.ts/, 'with a misspelled key it does not');

$node->stop('fast');
done_testing();
