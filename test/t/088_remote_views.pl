# What an application sees and does from its own server: examples/remote-views.sql.
#
# Only a second server, without the extension, can show that the views can be imported
# as foreign tables there, what of a query is sent to the delivery node, that a chatbot's
# name does not travel with SET LOCAL but as the page says, and that nobody gets at
# another chatbot's deliveries that way.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $application = PostgreSQL::Test::Cluster->new('application');
$application->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$application->start;
if ($application->safe_psql('postgres',
		q{SELECT count(*) FROM pg_available_extensions WHERE name IN ('postgres_fdw', 'dblink')}) < 2)
{
	plan skip_all => 'postgres_fdw or dblink is not installed';
}

my $receiver = start_receiver();
my $node = new_node('node');
script(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.seen')});
my %webhooks;
foreach my $chatbot (qw(shop cafe))
{
	($webhooks{$chatbot}) = create_webhook($node, name => $chatbot, chatbot_id => $chatbot, path => '/fail/1/then/ok',
		max_retries => 0, filter => '$.data.n > 0');
}
script(q{
	CREATE ROLE chat_reader LOGIN; CREATE ROLE chat_app LOGIN;
	SELECT chatwebhook.grant_reader('chat_reader'), chatwebhook.grant_app('chat_app')});
script(qq{SELECT chatwebhook.emit('test.seen', '$_', 'c', '{"n": 1}')}) foreach qw(shop cafe);
ok(wait_idle($node), 'deliveries have failed');
my %dead = map { split /\|/ } split /\n/, sql('SELECT chatbot_id, id FROM chatwebhook.dead_letter');
is(join(' ', sort keys %dead), 'cafe shop', 'one of each chatbot');

# The file as it is, with the names of this test's server.
my $root = "$FindBin::RealBin/../..";
$application->safe_psql('postgres', 'CREATE ROLE app LOGIN');
$application->command_ok(
	[ 'psql', '-X', '-q', '-d' => $application->connstr('postgres'),
		'-v' => 'host=' . $node->host, '-v' => 'port=' . $node->port, '-v' => 'dbname=postgres',
		'-v' => 'reader_password=x', '-v' => 'app_password=x', '-f' => "$root/examples/remote-views.sql" ],
	'examples/remote-views.sql is run');

# As a superuser of the application's server, or as the role app.
sub remote
{
	my ($sql) = @_;
	return $application->safe_psql('postgres', $sql);
}

sub as_app
{
	my ($chatbot, $sql) = @_;
	my ($rc, $stdout, $stderr) = $application->psql('postgres',
		'BEGIN; ' . (defined $chatbot ? 'SET LOCAL chatwebhook.chatbot = ' . literal($chatbot) . '; ' : '') . "$sql; COMMIT",
		extra_params => [ '-U', 'app' ], on_error_stop => 1);
	return $rc == 0 ? $stdout : $stderr =~ s/.*?(ERROR:[^\n]*).*/$1/sr;
}

# The statements that are sent to the delivery node.
sub sent
{
	my ($sql) = @_;
	return join "\n", grep { /Remote SQL/ } split /\n/, remote("EXPLAIN (VERBOSE, COSTS OFF) $sql");
}

#
# Operators
#
is(remote(q{SELECT chatbot_id, status, event_type FROM webhooks.delivery ORDER BY 1}),
	"cafe|dead|test.seen\nshop|dead|test.seen", 'an operator sees the deliveries');
is(remote(q{SELECT name, dead FROM webhooks.webhook_health ORDER BY 1}), "cafe|1\nshop|1", 'and the health');
is(remote(q{SELECT count(*) FROM webhooks.worker_status}), 1, 'and the worker');
is(remote(q{SELECT count(*) FROM webhooks.alert}), 0, 'and alerts');
remote(q{IMPORT FOREIGN SCHEMA chatwebhook LIMIT TO (dead_letter) FROM SERVER delivery_node INTO webhooks});
my (undef, undef, $stderr) = $application->psql('postgres', 'SELECT * FROM webhooks.dead_letter');
like($stderr, qr/permission denied for view dead_letter/, 'but no chats');
# all else that there is, in types that the other server knows
remote(q{CREATE SCHEMA everything;
	IMPORT FOREIGN SCHEMA chatwebhook FROM SERVER delivery_node_shop INTO everything OPTIONS (import_generated 'false')});
foreach my $table (split /\n/, remote(q{SELECT relname FROM pg_class WHERE relnamespace = 'everything'::regnamespace}))
{
	my (undef, undef, $error) = $application->psql('postgres', "SELECT * FROM everything.$table LIMIT 1");
	ok($error eq '' || $error =~ /permission denied/, "$table can be read, or may not be") or diag($error);
}

#
# What is sent there
#
like(sent('SELECT * FROM webhooks.delivery LIMIT 20'), qr/ LIMIT 20/, 'a LIMIT is sent');
like(sent(q{SELECT count(*) FROM webhooks.delivery WHERE status = 'dead'}), qr/count\(\*\).*status = 'dead'/, 'and counting');
like(sent(q{SELECT count(*) FROM webhooks.delivery WHERE created_at > (SELECT now() - interval '1 hour')}),
	qr/count\(\*\).*created_at > \$1/, 'and times, in a subquery');
unlike(sent(q{SELECT count(*) FROM webhooks.delivery WHERE created_at > now() - interval '1 hour'}),
	qr/WHERE/, 'but no now()');
like(sent('SELECT * FROM webhooks.delivery WHERE event_id = ANY (ARRAY(SELECT gen_random_uuid()))'),
	qr/event_id = ANY \(\$1/, 'and a list instead of a join');
like(sent('SELECT * FROM webhooks.my_delivery'), qr/chatbot_id = \$1/, 'and the chatbot');

#
# The application
#
is(as_app('shop', 'SELECT id FROM webhooks.my_delivery'), $dead{shop}, 'a customer sees its deliveries');
is(as_app('cafe', 'SELECT id FROM webhooks.my_delivery'), $dead{cafe}, 'each its own');
is(as_app(undef, 'SELECT count(*) FROM webhooks.my_delivery'), 0, 'and none without SET LOCAL');
like(as_app('shop', 'SELECT * FROM webhooks.delivery'), qr/permission denied/, 'the application reads no foreign table itself');
like(as_app('shop', "SELECT * FROM webhooks.dblink('delivery_node_app', 'SELECT 1') AS t (n integer)"),
	qr/permission denied/, 'nor does it send statements');
is(as_app('shop', "SELECT webhooks.retry($dead{cafe})"), 'f', "it cannot retry another chatbot's");
like(as_app(undef, "SELECT webhooks.retry($dead{cafe})"), qr/unrecognized configuration parameter/, 'nor any without a chatbot');
is(as_app(q{shop', true), pg_catalog.set_config('chatwebhook.chatbot', 'cafe}, "SELECT webhooks.retry($dead{cafe})"),
	'f', 'whatever the chatbot is called');
is(as_app('shop', "SELECT webhooks.retry($dead{shop})"), 't', 'it retries its own');
ok($receiver->wait_for(2, 'shop'), 'which is sent');
ok(wait_idle($node), 'and done');
is(as_app('shop', 'SELECT status FROM webhooks.my_delivery'), 'delivered', 'as it sees');
is(as_app('shop', "SELECT webhooks.cancel($dead{shop})"), 'f', 'there is nothing to cancel');
is($receiver->count('cafe'), 1, 'the other was not sent again');

#
# One chatbot's server
#
is(remote('SELECT name, filter FROM shop_webhooks.webhook'), 'shop|($."data"."n" > 0)', 'a server for a chatbot has its webhook');
is(remote(q{SELECT data FROM shop_webhooks.event}), '{"n": 1}', 'and event');
is(remote(q{SELECT count(*) FROM shop_webhooks.dead_letter}), 0, 'and dead letters');
is(remote(q{BEGIN; SET LOCAL chatwebhook.chatbot = 'cafe'; SELECT count(*) FROM shop_webhooks.delivery WHERE chatbot_id = 'cafe'; COMMIT}),
	0, 'a setting here changes nothing');
remote(q{BEGIN; UPDATE shop_webhooks.webhook SET enabled = false; ROLLBACK});
is(sql(q{SELECT count(*) FROM chatwebhook.webhook WHERE NOT enabled}), 0, 'an update that is rolled back is rolled back there');
remote(q{UPDATE shop_webhooks.webhook SET enabled = false});
is(sql(q{SELECT string_agg(name, ' ') FROM chatwebhook.webhook WHERE NOT enabled}), 'shop', 'and one that is not is of its webhooks only');
(undef, undef, $stderr) = $application->psql('postgres', q{UPDATE shop_webhooks.webhook SET chatbot_id = 'cafe'});
like($stderr, qr/violates row-level security/, 'which it cannot give away');
remote(q{IMPORT FOREIGN SCHEMA chatwebhook LIMIT TO (attempt) FROM SERVER delivery_node_app INTO webhooks});
is(remote(q{BEGIN; SET LOCAL chatwebhook.chatbot = 'shop'; SELECT count(*) FROM webhooks.attempt; COMMIT}), 0,
	'without it, SET LOCAL does not reach the other server');

done_testing();
