# Many databases of which few have the extension, and too few worker processes.
#
# Only a whole server can show what its launcher costs beside fifty databases that
# are none of its business, which of them get workers, and what is said when no
# background worker process is free.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Chatwebhook;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $receiver = start_receiver();
my $node = new_node(
	'main',
	-extension => 0,
	max_worker_processes => 6,	# one of them is for logical replication
	fsync => 'off',
	autovacuum => 'off');

sub processes
{
	my ($type, $dbname) = @_;
	return sql(sprintf q{
		SELECT pid FROM pg_stat_activity WHERE backend_type = 'chatwebhook %s'
		   AND coalesce(datname, '') LIKE '%s' ORDER BY pid}, $type, $dbname // '%');
}

sub has_workers
{
	my ($dbname, $n, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	becomes_true(qq{
		SELECT count(*) = $n FROM pg_stat_activity
		 WHERE backend_type = 'chatwebhook worker' AND datname = '$dbname'}, $name);
}

sub delivers
{
	my ($dbname, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = $receiver->count($dbname);
	sql_in($dbname, q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok($receiver->wait_for($before + 1, $dbname), $name);
}

# How often the launcher has gone to sleep.
sub launcher_sleeps
{
	my ($n) = slurp_file('/proc/' . processes('launcher') . '/status') =~ /^voluntary_ctxt_switches:\s*(\d+)/m;
	return $n;
}

# Hundredths of a second of CPU that a process has used.
sub ticks
{
	my ($pid) = @_;
	my @fields = split ' ', slurp_file("/proc/$pid/stat") =~ s/^.*\) //sr;
	return $fields[11] + $fields[12];
}

#
# Many databases.
#
sql("CREATE DATABASE db$_" . (server_major() >= 15 ? ' STRATEGY file_copy' : ''))
  foreach 1 .. 50;
foreach my $dbname ('db10', 'db40')
{
	sql_in($dbname, 'CREATE EXTENSION chatwebhook');
	has_workers($dbname, 1, "CREATE EXTENSION in one of many starts a worker");
	create_webhook($node, dbname => $dbname, name => $dbname,
		events => ['webhook.test']);
	delivers($dbname, 'it delivers');
}
foreach my $how ('IS_TEMPLATE true', 'ALLOW_CONNECTIONS false')
{
	my $dbname = $how =~ /TEMPLATE/ ? 'db45' : 'db50';
	sql_in($dbname, 'CREATE EXTENSION chatwebhook');
	has_workers($dbname, 1, 'one more starts a worker');
	sql("ALTER DATABASE $dbname WITH $how");
}
my $restarted = -s $node->logfile;
$node->restart;
has_workers($_, 1, 'after a restart it is found again') foreach 'db10', 'db40';
becomes_true(q{
		SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'chatwebhook worker'},
	'the other databases have none when they have been looked into');
my $launcher = processes('launcher');
{
	# a look at each database has ended when nothing wakes it any more
	my ($seen, $deadline) = (-1, time + $PostgreSQL::Test::Utils::timeout_default);
	while ($seen != launcher_sleeps() && time < $deadline)
	{
		$seen = launcher_sleeps();
		sleep 1;
	}
	is(sql(q{SELECT datname FROM pg_stat_activity WHERE backend_type = 'chatwebhook worker' ORDER BY datname}),
		"db10\ndb40", 'none has stayed in a template, either');
	my @workers = split /\n/, processes('worker');
	my ($before, $woken) = (ticks($launcher), launcher_sleeps());
	my $worked = 0;
	$worked += ticks($_) foreach @workers;
	# not a wait: what is measured is what they do while time passes
	sleep 5;
	my $used = ticks($launcher) - $before;
	$woken = launcher_sleeps() - $woken;
	my $work = -$worked;
	$work += ticks($_) foreach @workers;
	diag(sprintf 'in 5 s beside 50 databases: the launcher used %.2f s of CPU and woke %d times, %d idle workers %.2f s',
		$used / 100, $woken, scalar @workers, $work / 100);
	cmp_ok($used, '<=', 2, 'the launcher costs next to nothing');
	cmp_ok($woken, '<=', 10, 'it sleeps');
	is(processes('worker'), join("\n", @workers), 'no process has come or gone');
	unlike(slurp_file($node->logfile, $restarted), qr/not currently accepting connections/,
		'and none has tried to where it is not allowed');
}

sql('CREATE DATABASE db60 TEMPLATE db10');
has_workers('db60', 1, 'a copy of a database with the extension gets a worker');
sql('ALTER DATABASE db40 RENAME TO db70');
has_workers('db70', 1, 'a renamed one keeps its');
sql('DROP DATABASE db60');
sql_in('db70', 'DROP EXTENSION chatwebhook');
has_workers('db70', 0, 'DROP EXTENSION ends the worker');

#
# No worker process is free.
#
my $complaint = qr/chatwebhook could not start a worker: no background worker process is free/;

sub complaints
{
	my $n = () = slurp_file($node->logfile) =~ /$complaint/g;
	return $n;
}
$node->append_conf('postgresql.conf', 'chatwebhook.workers = 8');
my $offset = -s $node->logfile;
is(complaints(), 0, 'there were enough');
$node->reload;
$node->wait_for_log($complaint, $offset);
has_workers('db10', 4, 'as many workers as there is room for');
sql_in('db20', 'CREATE EXTENSION chatwebhook');
create_webhook($node, dbname => 'db20', name => 'db20', events => ['webhook.test']);
delivers('db10', 'those that run deliver');
# it wakes to try again, after which it sleeps
my ($slept, $deadline) = (launcher_sleeps(), time + $PostgreSQL::Test::Utils::timeout_default);
sleep 0.1 while launcher_sleeps() < $slept + 2 && time < $deadline;
cmp_ok(launcher_sleeps(), '>=', $slept + 2, 'the launcher has tried again');
is(complaints(), 1, 'it is said once');
like(slurp_file($node->logfile), qr/HINT:  Increase max_worker_processes, now 6, and restart the server\./,
	'with a hint');
is(processes('worker', 'db20'), '', 'another database finds no room');
$node->append_conf('postgresql.conf', 'chatwebhook.workers = 1');
$node->reload;
has_workers('db20', 1, 'it gets a worker when another has less');
has_workers('db10', 1, 'which keeps one');
delivers('db20', 'it delivers');
is(complaints(), 1, 'it is not said again');

#
# A launcher that ends, when there are workers in all places that there are.
#
$node->append_conf('postgresql.conf', 'chatwebhook.workers = 2');
$node->reload;
has_workers($_, 2, 'both have as many workers as there is room for') foreach 'db10', 'db20';
foreach my $n (1 .. 2)
{
	my $old = processes('launcher');
	my $workers = processes('worker') =~ s/\n/, /gr;
	sql("SELECT pg_terminate_backend($old)");
	becomes_true(qq{
			SELECT count(*) = 1 FROM pg_stat_activity
			 WHERE backend_type = 'chatwebhook launcher' AND pid <> $old}, 'a launcher has ended, and there is another');
	becomes_true(qq{
			SELECT count(*) = 4 FROM pg_stat_activity
			 WHERE backend_type = 'chatwebhook worker' AND pid NOT IN ($workers)},
		'which starts as many workers') or last;
}

# One that ends when workers have places, but no processes yet: the postmaster is
# stopped before it is asked for these.  Also if this test ends early, it goes on,
# since it could not be ended.
$node->append_conf('postgresql.conf', q{chatwebhook.databases = 'db10, db20'});
my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
END { kill 'CONT', $postmaster if $postmaster }
foreach my $n (1 .. 2)
{
	$node->append_conf('postgresql.conf', 'chatwebhook.workers = 1');
	$node->reload;
	has_workers($_, 1, 'both have one worker') foreach 'db10', 'db20';
	my ($old, @workers) = (processes('launcher'), split /\n/, processes('worker'));
	$offset = -s $node->logfile;
	$node->append_conf('postgresql.conf', 'chatwebhook.workers = 8');
	kill 'STOP', $postmaster or die "could not stop the postmaster: $!\n";
	kill 'HUP', $old;
	$deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	sleep 0.1 while slurp_file($node->logfile, $offset) !~ $complaint && time < $deadline;
	kill 'TERM', $old;
	# a process that has ended is a zombie as long as the postmaster is stopped
	sleep 0.1
	  while time < $deadline && grep { slurp_file("/proc/$_/stat") !~ /^.*\) Z /s } $old, @workers;
	kill 'CONT', $postmaster;
	cmp_ok(time, '<', $deadline, 'a launcher has ended that had asked for as many as there is room for, and so have its workers');
	$node->append_conf('postgresql.conf', 'chatwebhook.workers = 2');
	$node->reload;
	has_workers($_, 2, 'another launcher has all places for its workers') foreach 'db10', 'db20';
}
delivers($_, 'it delivers') foreach 'db10', 'db20';
$node->stop;
done_testing();
