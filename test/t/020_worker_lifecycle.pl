# Workers come and go: with the extension, with databases, with settings and with
# the server itself.
#
# Only a whole server can show this.  In most of what follows a receiver that
# never answers holds a request, since that is when a worker would be in the way.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $receiver = start_receiver();
my $node = new_node(
	'main',
	-extension => 0,
	-init => [ allows_streaming => 1 ],
	max_worker_processes => 20,
	autovacuum => 'off');

# Which processes are the workers of a database.
my $workers_sql = q{FROM pg_stat_activity
	WHERE backend_type = 'chatwebhook worker' AND datname = '%s'};

# See that a database gets so many workers.  The launcher does not look around by
# itself: that it gets them means that it has been told to.
sub has_workers
{
	my ($dbname, $n, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	becomes_true("SELECT count(*) = $n " . sprintf($workers_sql, $dbname), $name);
}

# Their processes, one a line.
sub worker_pids
{
	my ($dbname) = @_;
	return sql('SELECT pid ' . sprintf($workers_sql, $dbname) . ' ORDER BY pid');
}

# Emit an event; its id, which is the webhook-id.
sub emit
{
	my ($dbname, $conversation, $type) = @_;
	$conversation //= 'c';
	$type //= 'webhook.test';
	return sql_in($dbname,
		"SELECT chatwebhook.emit('$type', null, '$conversation', '{}')");
}

# What is emitted in a database gets to the webhook of this label, which is the
# database's name unless that has changed since.
sub delivers
{
	my ($dbname, $name, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$label //= $dbname;
	my $id = emit($dbname);
	ok( $receiver->wait_until(
			sub {
				grep { $_->{headers}{'webhook-id'} eq $id }
				  $receiver->log("ok_$label");
			}),
		$name);
}

# How long a request may hang.
my $long = 300;

# A webhook that answers and one that never does, which has a request already.
my $hung = 0;

sub add_webhooks
{
	my ($dbname) = @_;
	my $name = 'hung_' . ++$hung;
	create_webhook($node, dbname => $dbname, name => "ok_$dbname",
		events => ['webhook.test']);
	create_webhook($node, dbname => $dbname, name => $name, path => '/hang',
		events => ['conversation.ended'], timeout => "$long s");
	emit($dbname, 'c', 'conversation.ended');
	$receiver->wait_for(1, $name) or die "no request hangs in $dbname\n";
}

# Wait until a request hangs there: a worker that has come back sends anew what
# hung when it left.
sub hang
{
	my ($dbname) = @_;
	wait_until_in($dbname,
		'SELECT count(*) = 1 FROM chatwebhook.worker_status WHERE in_flight > 0')
	  or die "no request hangs in $dbname\n";
}

# Run statements, each in its own transaction, and see that they do not wait for a
# request that hangs.
sub is_prompt
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	my ($status, $stdout, $stderr) = $node->psql('postgres', $sql);
	my $took = time - $start;
	is($status, 0, $name) or diag($stderr);
	cmp_ok($took, '<', $long / 2, sprintf '%s: in %.2f s', $name, $took);
}

# Settings, and a new session that sees them, by when every process has been
# told to read them.
sub set
{
	my (%settings) = @_;
	foreach my $name (sort keys %settings)
	{
		sql("ALTER SYSTEM SET chatwebhook.$name = '$settings{$name}'");
	}
	$node->reload;
	foreach my $name (sort keys %settings)
	{
		wait_until("SELECT current_setting('chatwebhook.$name') = '$settings{$name}'")
		  or die "chatwebhook.$name is not changed\n";
	}
}

#
# A worker comes with the extension.
#
is(worker_pids('postgres'), '', 'no worker without the extension');
sql('CREATE EXTENSION chatwebhook');
has_workers('postgres', 1, 'CREATE EXTENSION starts one');
add_webhooks('postgres');
delivers('postgres', 'it delivers');

sql('CREATE DATABASE later');
sql_in('later', 'CREATE EXTENSION chatwebhook');
has_workers('later', 1, 'a database made later gets one');
add_webhooks('later');
delivers('later', 'it delivers');

my ($status, $stdout, $stderr) =
  $node->psql('later', 'BEGIN; DROP EXTENSION chatwebhook CASCADE; ROLLBACK');
is($status, 0, 'DROP EXTENSION is rolled back');
delivers('later', 'the worker goes on');

#
# While a request hangs, the worker holds nothing.
#
is( sql(q{
		SELECT state, xact_start, backend_xid, backend_xmin
		  } . sprintf($workers_sql, 'postgres')),
	'idle|||',
	'a worker with a hanging request has no transaction and no snapshot');
is( sql(q{
		SELECT l.locktype, l.mode, l.relation::regclass FROM pg_locks l
		  JOIN pg_stat_activity a USING (pid)
		 WHERE a.backend_type LIKE 'chatwebhook%'}),
	'',
	'and no lock');
is( sql('SELECT in_flight FROM chatwebhook.worker_status'),
	1, 'with its request under way');

#
# Statements that need a database for themselves.
#
sql('CREATE DATABASE original');
sql_in('original', 'CREATE EXTENSION chatwebhook');
add_webhooks('original');

is_prompt('CREATE DATABASE copy TEMPLATE original',
	'CREATE DATABASE from a template whose worker has a request');
has_workers('copy', 1, 'the copy gets a worker');
has_workers('original', 1, 'the template keeps its own');
sql_in('copy', 'SELECT chatwebhook.adopt()');
delivers('copy', 'the copy\'s worker delivers', 'original');
delivers('original', 'and so does the template\'s');

hang('original');
is_prompt('ALTER DATABASE original RENAME TO renamed',
	'ALTER DATABASE RENAME');
has_workers('renamed', 1, 'the worker is back');
delivers('renamed', 'and delivers', 'original');

my $directory = PostgreSQL::Test::Utils::tempdir('tablespace');
sql("CREATE TABLESPACE elsewhere LOCATION '$directory'");
hang('renamed');
is_prompt('ALTER DATABASE renamed SET TABLESPACE elsewhere',
	'ALTER DATABASE SET TABLESPACE');
has_workers('renamed', 1, 'the worker is back');

# An extension in template1 comes with every new database, and has no worker.
sql_in('template1', 'CREATE EXTENSION chatwebhook');
is_prompt('CREATE DATABASE equipped',
	'CREATE DATABASE from a template1 with the extension');
has_workers('equipped', 1, 'the new database gets a worker');
is(worker_pids('template1'), '', 'template1 has none');
sql_in('template1', 'DROP EXTENSION chatwebhook');

#
# DROP DATABASE that does not come about.
#
{
	my $session = $node->background_psql('later');
	$session->query_safe('SELECT 1');
	hang('later');
	($status, $stdout, $stderr) = $node->psql('postgres', 'DROP DATABASE later');
	isnt($status, 0, 'DROP DATABASE fails while a session is connected');
	like($stderr, qr/is being accessed by other users.*1 other session/s,
		'because of that session alone');
	has_workers('later', 1, 'the worker is back');
	delivers('later', 'and delivers');
	$session->quit;
}
{
	my $pid = worker_pids('later');
	sql('CREATE ROLE nobody LOGIN');
	($status, $stdout, $stderr) =
	  $node->psql('postgres', 'SET ROLE nobody; DROP DATABASE later');
	like($stderr, qr/must be owner of database later/,
		'others cannot drop the database');
	is(worker_pids('later'), $pid, 'and do not disturb its worker');
	($status, $stdout, $stderr) = $node->psql('postgres',
		'BEGIN; DROP DATABASE later');
	like($stderr, qr/cannot run inside a transaction block/,
		'DROP DATABASE does not run in a transaction');
	has_workers('later', 1, 'the worker is there');
	delivers('later', 'and delivers');
}

# The owner of a database may drop it or move it, even without CREATEDB.
{
	sql('CREATE ROLE tenant LOGIN');
	sql('CREATE DATABASE owned OWNER tenant');
	sql('GRANT CREATE ON TABLESPACE elsewhere TO tenant');
	sql_in('owned', 'CREATE EXTENSION chatwebhook');
	has_workers('owned', 1, 'a database of somebody else\'s has a worker');
	add_webhooks('owned');
	is_prompt('SET ROLE tenant; ALTER DATABASE owned SET TABLESPACE elsewhere',
		'ALTER DATABASE SET TABLESPACE by its owner');
	has_workers('owned', 1, 'the worker is back');
	hang('owned');
	is_prompt('SET ROLE tenant; DROP DATABASE owned', 'DROP DATABASE by its owner');
}

#
# DROP DATABASE that does, with requests under way everywhere.
#
hang($_) foreach 'postgres', 'later', 'renamed', 'copy';
is_prompt('DROP DATABASE later', 'DROP DATABASE of the worker\'s own');
is_prompt('DROP DATABASE renamed WITH (FORCE)',
	'DROP DATABASE WITH (FORCE) of the worker\'s own');
sql('CREATE DATABASE plain');
is_prompt('DROP DATABASE plain WITH (FORCE)',
	'DROP DATABASE WITH (FORCE) of one without the extension');
sql('DROP TABLESPACE elsewhere');
is_prompt('DROP DATABASE copy WITH (FORCE)', 'DROP DATABASE of another');
is_prompt('DROP DATABASE equipped', 'DROP DATABASE of an idle one');

#
# DROP EXTENSION with a request under way, and CREATE EXTENSION again.
#
my $pid = worker_pids('postgres');
is_prompt('DROP EXTENSION chatwebhook', 'DROP EXTENSION');
has_workers('postgres', 0, 'the worker leaves');
sql('CREATE EXTENSION chatwebhook');
has_workers('postgres', 1, 'CREATE EXTENSION brings one back');
isnt(worker_pids('postgres'), $pid, 'it is another');
is(sql('SELECT count(in_flight) FROM chatwebhook._all_in_flight()'),
	0, 'nothing is claimed');
add_webhooks('postgres');
delivers('postgres', 'it delivers');
# So fast that the worker may see the extension gone or not, and in the middle
# of a settle.
foreach my $sql (
	'DROP EXTENSION chatwebhook; CREATE EXTENSION chatwebhook;',
	'BEGIN; DROP EXTENSION chatwebhook; CREATE EXTENSION chatwebhook; COMMIT;')
{
	is_prompt($sql, $sql);
	add_webhooks('postgres');
	delivers('postgres', 'it delivers again');
}
has_workers('postgres', 1, 'there is one worker');

#
# Settings that change while it runs.
#
{
	create_webhook($node, name => 'held', path => '/hang-until-told',
		events => ['message.sent'], timeout => "$long s");
	sql(q{SELECT chatwebhook.emit('message.sent', null, null,
			'{"role": "bot", "content": "hi"}')});
	ok($receiver->wait_for(1, 'held'), 'a request waits for its answer');

	set(enabled => 'off');
	my $before = $receiver->count;
	emit('postgres', 'while off') foreach 1 .. 20;
	$receiver->set(up => ['held']);
	becomes_true(q{
			SELECT status = 'delivered' FROM chatwebhook.delivery
			 WHERE webhook_name = 'held'},
		'while off, what is under way is finished');
	is($receiver->count, $before, 'and nothing new is sent');
	is( sql(q{
			SELECT count(*) FROM chatwebhook.delivery
			 WHERE conversation_id = 'while off' AND status = 'pending'}),
		20, 'it waits in the queue');

	set(enabled => 'on');
	ok($receiver->wait_for($before + 20), 'and is sent when it is on again');
}
{
	create_webhook($node, name => 'slow', path => '/delay-ms/50',
		events => ['feedback.received']);
	my $feedback = q{SELECT chatwebhook.emit('feedback.received', null, null,
		'{"rating": 5}') FROM generate_series(1, %d)};
	sql(sprintf $feedback, 30);
	ok($receiver->wait_for(30, 'slow'), 'a slow receiver gets its events');
	my @widest = sort { $b <=> $a } map { $_->{concurrent} } $receiver->log('slow');
	cmp_ok($widest[0], '>', 1, 'several at a time');

	# those that hang count as well
	becomes_true(q{
			SELECT count(*) = 30 FROM chatwebhook.delivery
			 WHERE webhook_name = 'slow' AND status = 'delivered'},
		'and answers them all');
	my $hanging = sql('SELECT in_flight FROM chatwebhook.worker_status');
	cmp_ok($hanging, '>', 0, 'others hang');
	set(max_in_flight => $hanging + 1);
	sql(sprintf $feedback, 10);
	ok($receiver->wait_for(40, 'slow'), 'it gets more');
	my @late = ($receiver->log('slow'))[ 30 .. 39 ];
	is(scalar(grep { $_->{concurrent} > 1 } @late),
		0, 'one at a time with max_in_flight lowered');
	set(max_in_flight => 256);
}
set(workers => 2);
has_workers('postgres', 2, 'a second worker is started');
becomes_true('SELECT count(*) = 2 FROM chatwebhook.worker_status', 'worker_status shows both');
delivers('postgres', 'they deliver');
set(workers => 1);
has_workers('postgres', 1, 'one of them leaves');
delivers('postgres', 'the other goes on');

# A launcher that ends takes its workers along; the next one starts others.
{
	my $launcher = q{SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'chatwebhook launcher'};
	my $old = sql($launcher);
	my $worker = worker_pids('postgres');
	sql("SELECT pg_terminate_backend($old)");
	becomes_true("SELECT count(*) = 1 FROM ($launcher) l WHERE pid <> $old",
		'a launcher that was ended is started again');
	# one that comes later shows that the launcher has looked around
	sql('CREATE DATABASE witness');
	sql_in('witness', 'CREATE EXTENSION chatwebhook');
	has_workers('witness', 1, 'it starts workers where they are needed');
	has_workers('postgres', 1, 'and not more than one');
	delivers('postgres', 'deliveries go on');
	hang('postgres');
	sql_in('witness', 'DROP EXTENSION chatwebhook');
	has_workers('witness', 0, 'it hears of what goes');
	is_prompt('DROP DATABASE witness', 'DROP DATABASE goes through');
}

# A worker is not started again and again where it cannot connect any more.
{
	sql('CREATE DATABASE shut');
	sql_in('shut', 'CREATE EXTENSION chatwebhook');
	has_workers('shut', 1, 'another database has a worker');
	sql('ALTER DATABASE shut ALLOW_CONNECTIONS false');
	my ($worker) = worker_pids('shut');
	sql("SELECT pg_terminate_backend($worker)");
	has_workers('shut', 0, 'that one ends');
	# this takes longer than the launcher waits before it starts one again
	create_webhook($node, name => 'window', events => ['webhook.test'], batch_size => 2, batch_window => '3 seconds');
	emit('postgres');
	ok($receiver->wait_for(1, 'window'), 'time passes');
	cmp_ok(scalar(() = slurp_file($node->logfile) =~ /"shut" is not currently accepting connections/g), '<=', 1,
		'another one was tried once at most');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'window'});
	is_prompt('DROP DATABASE shut', 'DROP DATABASE goes through');
}

# Which databases get workers.
set(databases => 'postgres');
sql('CREATE DATABASE apart');
sql_in('apart', 'CREATE EXTENSION chatwebhook');
create_webhook($node, dbname => 'apart', name => 'apart',
	events => ['webhook.test']);
emit('apart');
set(databases => 'postgres, apart');
has_workers('apart', 1, 'a database that is listed gets a worker');
ok($receiver->wait_for(1, 'apart'), 'and its events are sent');
set(databases => 'postgres');
has_workers('apart', 0, 'the worker leaves when it is not');
is(worker_pids('postgres') =~ /^\d+$/, 1, 'the one that is listed keeps its own');
emit('apart');
# the launcher has been told of this one before the next
sql_in('apart', 'DROP EXTENSION chatwebhook');
sql_in('apart', 'CREATE EXTENSION chatwebhook');
sql('CREATE DATABASE witness');
set(databases => 'postgres, witness');
sql_in('witness', 'CREATE EXTENSION chatwebhook');
has_workers('witness', 1, 'another that is listed gets one');
is(worker_pids('apart'), '', 'the one that is not still has none');
is($receiver->count('apart'), 1, 'and its events are not sent');
set(databases => '');
has_workers('apart', 1, 'without a list every database gets one');

#
# Read-only transactions and standbys.
#
($status, $stdout, $stderr) = $node->psql('postgres', q{
	BEGIN READ ONLY;
	SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
like($stderr,
	qr/ERROR:  cannot execute chatwebhook\.emit\(\) in a read-only transaction/,
	'emit() in a read-only transaction is an error that says so');

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
($status, $stdout, $stderr) = $standby->psql('postgres',
	q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
like($stderr, qr/ERROR:  cannot execute chatwebhook\.emit\(\)/,
	'emit() on a standby is an error that says so');
is( $standby->safe_psql('postgres', q{
		SELECT count(*) FROM pg_stat_activity
		 WHERE backend_type LIKE 'chatwebhook%'}),
	0, 'a standby has no workers');

#
# A fast stop with requests under way.
#
hang('postgres');
set(enabled => 'off');
my $last = emit('postgres', 'last');
$node->wait_for_catchup($standby);
my $start = time;
$node->stop('fast');
my $took = time - $start;
cmp_ok($took, '<', $long / 2, sprintf 'a fast stop takes %.2f s', $took);

# The standby takes over what is pending.
$standby->append_conf('postgresql.conf', 'chatwebhook.enabled = on');
$standby->promote;
ok( $standby->poll_query_until('postgres', q{
		SELECT count(*) = 1 FROM pg_stat_activity
		 WHERE backend_type = 'chatwebhook worker' AND datname = 'postgres'}),
	'a standby that is promoted starts workers');
ok( $receiver->wait_until(
		sub {
			grep { $_->{headers}{'webhook-id'} eq $last }
			  $receiver->log('ok_postgres');
		}),
	'and delivers what was pending');
$standby->stop('fast');

#
# Without the library loaded in advance.
#
my $bare = new_node('bare', -extension => 0, shared_preload_libraries => '');
($status, $stdout, $stderr) =
  $bare->psql('postgres', 'CREATE EXTENSION chatwebhook');
is($status, 0, 'CREATE EXTENSION works without preloading');
like($stderr,
	qr/WARNING:  chatwebhook is not in shared_preload_libraries: events are queued, but nothing is sent/,
	'but warns');
like($stderr,
	qr/HINT:  Add chatwebhook to shared_preload_libraries in postgresql\.conf and restart the server\./,
	'and says what to add');
create_webhook($bare, name => 'bare');
$bare->safe_psql('postgres',
	q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
is( $bare->safe_psql('postgres', q{
		SELECT status, webhook_name FROM chatwebhook.delivery}),
	'pending|bare',
	'events are queued');
($status, $stdout, $stderr) =
  $bare->psql('postgres', q{SELECT chatwebhook.wait_until_idle('1 s')});
like($stderr,
	qr/ERROR:  chatwebhook is not in shared_preload_libraries: nothing is sent/,
	'wait_until_idle() is an error that says so');
is($bare->safe_psql('postgres', 'SELECT count(*) FROM chatwebhook.worker_status'),
	0, 'worker_status is empty');
$bare->safe_psql('postgres', 'SELECT * FROM chatwebhook.webhook_health');
$bare->append_conf('postgresql.conf', q{shared_preload_libraries = 'chatwebhook'});
$bare->restart;
ok($receiver->wait_for(1, 'bare'), 'they are sent once it is loaded');
$bare->stop('fast');

# No worker has met an error in all this.
foreach my $server ($node, $standby, $bare)
{
	my @errors = grep { /^\S+ \S+ \S+ \[\d+\] (ERROR|WARNING|PANIC):/ }
	  split /\n/, slurp_file($server->logfile);
	is("@errors", '', 'the workers of "' . $server->name . '" have met no error');
}

done_testing();
