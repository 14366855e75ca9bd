# Copies of a database.
#
# Only several databases and servers can show that a copy sends nothing by itself,
# however it was made and whenever a worker looks at it, that it sends everything
# once it is adopted, and that what is no copy goes on without being asked.

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
my $other = new_node('other', -extension => 0, 'chatwebhook.log_attempts' => 'all');
my $node = new_node('main', 'chatwebhook.log_attempts' => 'all');
my $dumps = PostgreSQL::Test::Utils::tempdir('dumps');
my $n = 20;

# When the extension's triggers fire.
my $trigger_modes = q{SELECT tgrelid::regclass, tgname, tgenabled FROM pg_trigger
	WHERE tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'chatwebhook'::regnamespace) ORDER BY tgrelid::regclass::text, tgname};

# What a label's requests have carried as data.
sub numbers
{
	return join ' ', sort { $a <=> $b }
	  map { $json->decode($_->{body})->{data}{n} } $receiver->log('one');
}

# Have an event emitted in a database.
sub emit
{
	my ($on, $dbname, $number) = @_;
	$on->safe_psql($dbname, "INSERT INTO message VALUES ($number)");
}

# See that a copy holds everything back, what comes after it included, and says so.
sub keeps_still
{
	my ($on, $dbname, $what) = @_;
	my $query = sub { $on->safe_psql($dbname, $_[0]) };

	emit($on, $dbname, 99);
	# so a worker has looked, found a claim, and not made it
	ok($on->poll_query_until($dbname, 'SELECT count(problem) = 1 FROM chatwebhook.worker_status'), "$what: a worker is there, and holds back");
	emit($on, $dbname, 100);
	ok($on->poll_query_until($dbname, q{SELECT last_error ~ 'copy' FROM chatwebhook.worker_status}), 'it knows why');
	$on->reload;
	is($query->('SELECT count(*) FROM chatwebhook.queue WHERE chatwebhook._claimed(id)'), 0, 'nothing is claimed');
	is($receiver->count, 0, 'nothing is sent');
	is($query->('SELECT count(*) FROM chatwebhook.queue'), $n + 2, 'nothing is lost');
	is($query->('SELECT DISTINCT state FROM chatwebhook.webhook_health'), 'paused', 'the webhook is paused');
	like($query->('SELECT DISTINCT problem FROM chatwebhook.webhook_health'), qr/^this database is a copy/, 'for this reason');
	like($query->('SELECT chatwebhook.dashboard()'), qr/This database is a copy.*adopt\(cancel_pending =&gt; true\)/s, 'the dashboard says it, and the way out');
	is($query->('SELECT count(*) FROM chatwebhook.attempt'), 0, 'no attempt was made');
}

# Adopt a copy, and see that everything goes out.
sub adopted
{
	my ($on, $dbname) = @_;

	is($on->safe_psql($dbname, 'SELECT chatwebhook.adopt()'), 0, 'adopted, with all that is pending');
	is($on->safe_psql($dbname, $trigger_modes), $node->safe_psql('source', $trigger_modes), 'its triggers fire as those of the original');
	ok(wait_idle($on, dbname => $dbname), 'idle');
	is(numbers(), join(' ', 1 .. $n, 99, 100), 'all has arrived');
	is($on->safe_psql($dbname, 'SELECT count(*), count(problem) FROM chatwebhook.worker_status'), '1|0', 'there is no problem any more');
	$on->restart;
	emit($on, $dbname, 101);
	ok($receiver->wait_for($n + 3, 'one'), 'nor after a restart');
	$receiver->reset;
}

# Remove a copy.
sub forget
{
	my ($on, $dbname) = @_;
	$on->safe_psql('postgres', "DROP DATABASE $dbname WITH (FORCE)");
	$receiver->reset;
}

# Restore a dump.
sub restore
{
	my ($on, $dbname, @options) = @_;

	$on->command_ok([ 'pg_restore', '--exit-on-error', @options, '--dbname' => $on->connstr($dbname), "$dumps/dump" ],
		"restored into $dbname, @options");
}

#
# A database with deliveries that are pending
#
$node->append_conf('postgresql.conf', q{chatwebhook.databases = '!source, !postgres'});
$node->reload;
$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', q{
	CREATE EXTENSION chatwebhook;
	CREATE TABLE message (n integer);
	INSERT INTO chatwebhook.event_type (name) VALUES ('order.placed');
	SELECT chatwebhook.watch('message', 'order.placed', '{"n": "n"}')});
create_webhook($node, dbname => 'source', name => 'one', events => ['order.placed']);
$node->safe_psql('source', "INSERT INTO message SELECT generate_series(1, $n)");
is($node->safe_psql('source', 'SELECT count(*) FROM chatwebhook.queue'), $n, 'deliveries wait in a database that has no worker');
is($node->safe_psql('source', 'SELECT count(*) FROM chatwebhook.worker_status'), 0, 'as chatwebhook.databases says');
$node->command_ok([ 'pg_dump', '--no-sync', '--format=custom', '--file' => "$dumps/dump", $node->connstr('source') ], 'dumped');

#
# Restored in the same server, and in another
#
foreach my $on ($node, $other)
{
	foreach my $options ([], ['--jobs=4'], ['--single-transaction'])
	{
		$on->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE template0');
		restore($on, 'copy', @$options);
		keeps_still($on, 'copy', $on->name . " @$options");
		adopted($on, 'copy');
		forget($on, 'copy');
	}
}

#
# A worker looks at each stage of a restore, and data come without triggers
#
my ($list) = run_command([ 'pg_restore', '--list', "$dumps/dump" ]);

foreach my $triggers ([], ['--disable-triggers'])
{
	$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE template0');
	restore($node, 'copy', '--section=pre-data');
	ok($node->poll_query_until('copy', 'SELECT count(*) = 1 FROM chatwebhook.worker_status'), 'a worker is there');
	foreach my $tables ('event_type|webhook|vault|health', 'event|queue', 'identity')
	{
		my $file = "$dumps/" . ($tables =~ s/\W.*//r) . @$triggers;

		append_to_file($file, join "\n", grep { /TABLE DATA chatwebhook ($tables) / } split /\n/, $list);
		restore($node, 'copy', "--use-list=$file", @$triggers, @$triggers ? '--data-only' : ());
		# a new worker looks at everything
		$node->restart;
		ok($node->poll_query_until('copy', 'SELECT count(*) = 1 FROM chatwebhook.worker_status WHERE in_flight = 0'), "$tables is there");
	}
	is($receiver->count, 0, 'nothing is sent');
	restore($node, 'copy', '--section=post-data');
	keeps_still($node, 'copy', "in parts @$triggers");
	adopted($node, 'copy');
	forget($node, 'copy');
}

#
# Deliveries alone, in a database of its own
#
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE template0');
restore($node, 'copy', '--section=pre-data');
restore($node, 'copy', '--section=post-data');
foreach my $table ('event_type', 'webhook', 'vault', 'health', 'event', 'queue')
{
	append_to_file("$dumps/alone", "$_\n") foreach grep { /TABLE DATA chatwebhook $table / } split /\n/, $list;
}
restore($node, 'copy', "--use-list=$dumps/alone");
# a worker that was there before looks at them every chatwebhook.poll_interval only
$node->restart;
keeps_still($node, 'copy', 'deliveries of another database');
adopted($node, 'copy');
forget($node, 'copy');

#
# A template, and a copy for testing
#
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE source');
keeps_still($node, 'copy', 'template');
is($node->safe_psql('copy', 'SELECT chatwebhook.adopt(cancel_pending => true)'), $n + 2, 'adopted, without what is pending');
emit($node, 'copy', 1000);
ok(wait_idle($node, dbname => 'copy'), 'idle');
is(numbers(), '1000', 'only what is new is sent');
is($node->safe_psql('copy', q{SELECT DISTINCT last_error FROM chatwebhook.delivery WHERE status = 'canceled'}),
	'the database is a copy of another one', 'the others are canceled');
my ($code, undef, $stderr) = $node->psql('copy', 'SELECT chatwebhook.adopt(cancel_pending => true)');
like($stderr, qr/NOTICE:  this database is not a copy/, 'it is no copy any more');
forget($node, 'copy');

#
# What was never copied
#
$node->append_conf('postgresql.conf', q{chatwebhook.databases = ''});
$node->restart;
ok(wait_idle($node, dbname => 'source'), 'idle');
is(numbers(), join(' ', 1 .. $n), 'the database itself sends when it may');
$receiver->reset;
$node->stop('immediate');
$node->start;
emit($node, 'source', 1);
ok($receiver->wait_for(1, 'one'), 'and after a crash');
$node->safe_psql('source', 'DROP EXTENSION chatwebhook CASCADE; CREATE EXTENSION chatwebhook');
is($node->safe_psql('source', 'SELECT count(*), bool_and(chatwebhook._copy_problem() IS NULL) FROM chatwebhook.identity'), '1|t',
	'an extension that is created anew is no copy');

done_testing();
