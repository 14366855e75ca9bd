# A dump and its restore.
#
# Only this can show that what pg_dump takes from the extension's tables comes
# back whole, beside what CREATE EXTENSION and the tables' triggers have put
# there in the meantime, and that deliveries go on from there: with the secrets
# that the receivers know, under ids that do not meet those of before, and even
# if a worker is at work while the restore is.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->canonical->allow_nonref;
my $receiver = start_receiver();
my $node = new_node('main', 'chatwebhook.log_attempts' => 'all');
my $dumps = PostgreSQL::Test::Utils::tempdir('dumps');

# Run SQL in a database and return its output.
sub sql
{
	my ($dbname, $sql) = @_;
	return $node->safe_psql($dbname, $sql);
}

# What is in each of the extension's tables, in an order of its own.
sub contents
{
	my ($dbname) = @_;
	my %contents;

	foreach my $table (
		qw(attempt dead event event_type health history queue vault webhook))
	{
		$contents{$table} = sql($dbname,
			"SELECT to_jsonb(t) FROM chatwebhook.$table t ORDER BY to_jsonb(t)::text COLLATE \"C\"");
	}
	return \%contents;
}

# Compare the tables of two databases.
sub same_contents
{
	my ($expected, $dbname, $what) = @_;
	my $got = contents($dbname);

	is($got->{$_}, $expected->{$_}, "$what: $_") foreach sort keys %$expected;
}

# The numbers that a label's requests have carried as data.
sub numbers
{
	my ($label) = @_;
	return join ' ', sort { $a <=> $b }
	  map { $json->decode($_->{body})->{data}{n} } $receiver->log($label);
}

# How many deliveries are in each state.
sub states
{
	my ($dbname) = @_;
	return sql($dbname,
		"SELECT string_agg(status || ' ' || n, ', ' ORDER BY status) FROM
		 (SELECT status, count(*) AS n FROM chatwebhook.delivery GROUP BY 1) AS s");
}

# Wait for a condition in a database.
sub wait_for_sql
{
	my ($dbname, $sql, $what) = @_;
	ok($node->poll_query_until($dbname, $sql), $what);
}

# Start or stop the workers' claiming.
sub set_enabled
{
	my ($enabled) = @_;
	$node->append_conf('postgresql.conf', "chatwebhook.enabled = $enabled");
	$node->reload;
	wait_for_sql('postgres',
		"SELECT current_setting('chatwebhook.enabled') = '$enabled'",
		"enabled is $enabled");
}

#
# A database with something of everything
#
sql('postgres', q{
	CREATE TABLE message (n integer, bot text);
	CREATE TRIGGER emit AFTER INSERT ON message
		FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit('order.placed', 'chatbotId=bot', 'n');
	INSERT INTO chatwebhook.event_type (name, description, required) VALUES ('order.placed', 'An order', '{n}'), ('order.paid', NULL, '{}');
	UPDATE chatwebhook.event_type SET required = required || '{phone}' WHERE name = 'lead.captured';
	UPDATE chatwebhook.event_type SET description = 'Zoë''s' WHERE name = 'conversation.ended';
});
my ($ok) = create_webhook($node, name => 'ok', headers => { 'X-Team' => 'sales' }, events => ['order.*']);
my ($later, $secret) = create_webhook($node,
	name => 'later', path => '/down-until-told', max_retries => 100,
	backoff => '1 s', backoff_multiplier => 1, max_backoff => '1 s',
	filter => '$.data.n > 0',
	secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
my ($dead) = create_webhook($node, name => 'dead', path => '/status/400', chatbot_id => 'bot-1');
my ($gone) = create_webhook($node, name => 'gone', path => '/gone');
my ($off) = create_webhook($node, name => 'off', events => ['order.paid'], enabled => 'f');
my $rotated = sql('postgres', "SELECT chatwebhook.rotate_secret('$ok', '1 day')");
$receiver->set_secret('ok', $rotated);
# an event type that a webhook names and that is no more
sql('postgres', "DELETE FROM chatwebhook.event_type WHERE name = 'order.paid'");

sql('postgres', "INSERT INTO message SELECT n, 'bot-' || n FROM generate_series(1, 3) AS n");
ok($receiver->wait_for(3, 'ok'), 'three events have arrived');
wait_for_sql('postgres',
	"SELECT count(*) = 3 FROM chatwebhook.queue WHERE webhook_id = '$later' AND attempts > 0",
	'three are being retried');
wait_for_sql('postgres',
	"SELECT count(*) = 1 FROM chatwebhook.dead WHERE webhook_id = '$dead'", 'one is dead');
wait_for_sql('postgres', "SELECT NOT enabled FROM chatwebhook.webhook WHERE id = '$gone'", 'one webhook is gone');
set_enabled('off');
wait_for_sql('postgres',
	"SELECT coalesce(sum(in_flight), 0) = 0 FROM chatwebhook.worker_status", 'nothing is under way');
sql('postgres', "INSERT INTO message VALUES (4, 'bot-4')");
sql('postgres', "SELECT chatwebhook.cancel(max(id)) FROM chatwebhook.queue WHERE webhook_id = '$ok'");
sql('postgres', "INSERT INTO message VALUES (5, 'bot-5')");
my $before = contents('postgres');
my $ids = sql('postgres', "SELECT id FROM chatwebhook.queue");

#
# As SQL, into another database of the same server
#
$node->command_ok(
	[ 'pg_dump', '--no-sync', '--file' => "$dumps/plain.sql", 'postgres' ], 'dumped as SQL');
sql('postgres', 'CREATE DATABASE plain TEMPLATE template0');
$node->command_ok(
	[ 'psql', '-X', '-q', '-v' => 'ON_ERROR_STOP=1', '--dbname' => 'plain', '--file' => "$dumps/plain.sql" ],
	'restored from SQL');
same_contents($before, 'plain', 'from SQL');
is(sql('plain', "SELECT bool_and(chatwebhook.secret(id) IS NOT NULL) FROM chatwebhook.webhook"), 't', 'every webhook has a secret');
is(sql('plain', "SELECT chatwebhook.secret('$later')"), $secret, 'the one it had');
is(sql('plain', "SELECT chatwebhook.secret('$ok')"), $rotated, 'the rotated one');

# and again from there
$node->command_ok(
	[ 'pg_dump', '--no-sync', '--file' => "$dumps/again.sql", 'plain' ], 'dumped again');
sql('postgres', 'CREATE DATABASE again TEMPLATE template0');
$node->command_ok(
	[ 'psql', '-X', '-q', '-v' => 'ON_ERROR_STOP=1', '--dbname' => 'again', '--file' => "$dumps/again.sql" ],
	'restored again');
same_contents($before, 'again', 'from a dump of a restored one');
sql('postgres', 'DROP DATABASE again');

#
# In the custom format, in parallel, where http is not allowed
#
$node->append_conf('postgresql.conf', "chatwebhook.allow_http = off");
$node->append_conf('postgresql.conf', "chatwebhook.allowed_networks = ''");
$node->reload;
wait_for_sql('postgres', "SELECT current_setting('chatwebhook.allow_http') = 'off'", 'no http any more');
$node->command_ok(
	[ 'pg_dump', '--no-sync', '--format' => 'custom', '--file' => "$dumps/custom", 'postgres' ], 'dumped');
sql('postgres', 'CREATE DATABASE custom TEMPLATE template0');
$node->command_ok(
	[ 'pg_restore', '--exit-on-error', '--jobs' => 4, '--dbname' => 'custom', "$dumps/custom" ], 'restored in parallel');
same_contents($before, 'custom', 'in parallel');
sql('postgres', 'CREATE DATABASE single TEMPLATE template0');
$node->command_ok(
	[ 'pg_restore', '--single-transaction', '--dbname' => 'single', "$dumps/custom" ], 'restored in one transaction');
same_contents($before, 'single', 'in one transaction');
sql('postgres', "DROP DATABASE $_") foreach 'custom', 'single';
$node->append_conf('postgresql.conf', "chatwebhook.allow_http = on");
$node->append_conf('postgresql.conf', "chatwebhook.allowed_networks = '127.0.0.0/8'");
$node->reload;

#
# Deliveries go on from there
#
# the first database must not send what is now the second's
sql('postgres', 'DROP EXTENSION chatwebhook CASCADE');
sql('plain', "INSERT INTO message VALUES (6, 'bot-6')");
is(sql('plain',
		q{SELECT string_agg(d.webhook_name, ' ' ORDER BY d.webhook_name)
		    FROM chatwebhook.delivery d JOIN chatwebhook.event e ON e.id = d.event_id
		   WHERE e.data->>'n' = '6'}),
	'later ok', 'the trigger emits for the webhooks that want it');
is(sql('plain', "SELECT count(*) FROM chatwebhook.queue GROUP BY id HAVING count(*) > 1"), '', 'under ids of their own');
is(sql('plain', "SELECT min(id) > " . (sort { $b <=> $a } split /\n/, $ids)[0]
	  . " FROM chatwebhook.queue WHERE id NOT IN (" . join(',', split /\n/, $ids) . ")"), 't', 'that go on from the old ones');
$receiver->reset;
$receiver->set(up => ['later']);
set_enabled('on');
wait_for_sql('plain', 'SELECT count(*) = 0 FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id AND w.enabled', 'all is delivered');
is(numbers('later'), '1 2 3 4 5 6', 'what was waiting for its retry, what was pending, and what is new');
like(numbers('ok'), qr/^(4 6|5 6)$/, 'but for what was canceled');
ok(!(grep { !$_->{verified}{standard} || !$_->{verified}{signature} } $receiver->log), 'signed with the secrets of before');
is(sql('plain', "SELECT count(*) FROM chatwebhook.dead_letter WHERE webhook_id = '$dead'"), 1, 'the dead are dead');
is(sql('plain', "SELECT bool_and(chatwebhook.retry(id)) FROM chatwebhook.dead_letter WHERE webhook_id = '$dead'"), 't', 'and can be retried');

#
# With a worker at work
#
sql('plain', q{UPDATE chatwebhook.webhook SET enabled = name IN ('ok', 'later')});
ok(wait_idle($node, dbname => 'plain'), 'idle');
set_enabled('off');
sql('plain', "INSERT INTO message SELECT n, 'bot-' || n FROM generate_series(101, 300) AS n");
$node->command_ok(
	[ 'pg_dump', '--no-sync', '--format' => 'custom', '--file' => "$dumps/busy", 'plain' ], 'dumped with a long queue');
sql('plain', 'DROP EXTENSION chatwebhook CASCADE');
$node->append_conf('postgresql.conf', "chatwebhook.poll_interval = '100ms'");
set_enabled('on');
foreach my $options ([], ['--jobs=4'])
{
	my $how = join ' ', 'beside a worker', @$options;
	my @restore = ('pg_restore', '--exit-on-error', @$options, '--dbname' => 'busy');

	$receiver->reset;
	$receiver->set(up => ['later']);
	sql('postgres', 'CREATE DATABASE busy TEMPLATE template0');
	$node->command_ok([ @restore, '--section=pre-data', "$dumps/busy" ], "$how: restored the schema");
	wait_for_sql('busy', 'SELECT count(*) > 0 FROM chatwebhook.worker_status', "$how: it is there");
	$node->command_ok([ @restore, '--section=data', '--section=post-data', "$dumps/busy" ], "$how: restored the data");
	ok(wait_idle($node, dbname => 'busy'), "$how: idle");
	is(sql('busy', "SELECT count(*) FROM chatwebhook.delivery WHERE status = 'canceled' AND created_at > (SELECT min(created_at) FROM chatwebhook.event WHERE data->>'n' = '101')"),
		0, "$how: nothing was canceled");
	is(numbers($_), join(' ', 101 .. 300), "$how: all has arrived at $_") foreach 'ok', 'later';
	is(scalar(grep { !$_->{verified}{standard} || !$_->{verified}{signature} } $receiver->log), 0, "$how: all was signed with the right secrets");
	sql('postgres', 'DROP DATABASE busy WITH (FORCE)');
}

#
# And with one that looks at every stage of a slow restore
#
my ($list) = run_command([ 'pg_restore', '--list', "$dumps/busy" ]);

# Restore the rows of these tables.
sub restore_tables
{
	my (@tables) = @_;
	my $wanted = join '|', @tables;

	append_to_file("$dumps/@tables",
		join "\n", grep { /TABLE DATA chatwebhook ($wanted) / } split /\n/, $list);
	$node->command_ok(
		[ 'pg_restore', '--exit-on-error', '--use-list' => "$dumps/@tables", '--dbname' => 'slow', "$dumps/busy" ],
		"restored @tables");
}

# Have a new worker look at everything, and prove that it has.
sub worker_looks
{
	my $n = $receiver->count('witness');

	$node->restart;
	sql('slow', "SELECT chatwebhook.emit('conversation.started', NULL, NULL, NULL)");
	ok($receiver->wait_for($n + 1, 'witness'), 'a worker has looked');
}

$receiver->reset;
$receiver->set(up => ['later']);
sql('postgres', 'CREATE DATABASE slow TEMPLATE template0');
$node->command_ok([ 'pg_restore', '--exit-on-error', '--section=pre-data', '--dbname' => 'slow', "$dumps/busy" ], 'restored the schema');
sql('slow', "UPDATE chatwebhook.event_type SET required = '{}' WHERE name = 'conversation.started'");
create_webhook($node, dbname => 'slow', name => 'witness', events => ['conversation.started']);
restore_tables('event', 'queue');
worker_looks();
is(states('slow'), 'delivered 1, pending 400', 'what has no webhook yet waits');
restore_tables('webhook');
worker_looks();
is($receiver->count - $receiver->count('witness'), 0, 'what has no secret yet waits');
is(states('slow'), 'delivered 2, pending 400', 'and is not given up');
restore_tables('vault', 'health', 'history', 'dead', 'attempt');
ok(wait_idle($node, dbname => 'slow'), 'idle');
is(numbers($_), join(' ', 101 .. 300), "all has arrived at $_") foreach 'ok', 'later';
is(scalar(grep { !$_->{verified}{standard} || !$_->{verified}{signature} } $receiver->log), 0, 'all was signed with the right secrets');

done_testing();
