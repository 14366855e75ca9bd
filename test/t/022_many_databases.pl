# Only a whole server can show what many databases cost of which few have the
# extension, and what happens when there are not enough worker processes.

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
	return $node->safe_psql('postgres', sprintf q{
		SELECT pid FROM pg_stat_activity WHERE backend_type = 'chatwebhook %s'
		   AND coalesce(datname, '') LIKE '%s' ORDER BY pid}, $type, $dbname // '%');
}

sub has_workers
{
	my ($dbname, $n, $name, $limit) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;
	my $reached = $node->poll_query_until('postgres', qq{
		SELECT count(*) = $n FROM pg_stat_activity
		 WHERE backend_type = 'chatwebhook worker' AND datname = '$dbname'});
	my $took = time - $start;
	ok($reached && $took < ($limit // 5), sprintf '%s: in %.1f s', $name, $took);
}

sub delivers
{
	my ($dbname, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = $receiver->count($dbname);
	$node->safe_psql($dbname, q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok($receiver->wait_for($before + 1, $dbname), $name);
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
$node->safe_psql('postgres', "CREATE DATABASE db$_" . (server_major() >= 15 ? ' STRATEGY file_copy' : ''))
  foreach 1 .. 50;
foreach my $dbname ('db10', 'db40')
{
	$node->safe_psql($dbname, 'CREATE EXTENSION chatwebhook');
	has_workers($dbname, 1, "CREATE EXTENSION in one of many starts a worker");
	create_webhook($node, dbname => $dbname, name => $dbname,
		events => ['webhook.test']);
	delivers($dbname, 'it delivers');
}
$node->restart;
my $start = time;
has_workers($_, 1, 'after a restart it is found again', 15) foreach 'db10', 'db40';
ok( $node->poll_query_until('postgres', q{
		SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'chatwebhook worker'}),
	'the other databases have none when they have been looked into');
my $launcher = processes('launcher');
SKIP:
{
	skip 'there is no /proc', 3 if !-e "/proc/$launcher/stat";
	my $switches = sub {
		return slurp_file("/proc/$launcher/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m
		  ? $1 : die;
	};
	# a look at each database has ended when nothing wakes it any more
	my ($seen, $deadline) = ($switches->(), time + 30);
	while (time < $deadline)
	{
		sleep 1;
		my $now = $switches->();
		last if $now == $seen;
		$seen = $now;
	}
	my @workers = split /\n/, processes('worker');
	my ($before, $woken) = (ticks($launcher), $switches->());
	my $worked = 0;
	$worked += ticks($_) foreach @workers;
	sleep 5;
	my $used = ticks($launcher) - $before;
	$woken = $switches->() - $woken;
	my $work = -$worked;
	$work += ticks($_) foreach @workers;
	diag(sprintf 'in 5 s beside 50 databases: the launcher used %.2f s of CPU and woke %d times, %d idle workers %.2f s',
		$used / 100, $woken, scalar @workers, $work / 100);
	cmp_ok($used, '<=', 2, 'the launcher costs next to nothing');
	cmp_ok($woken, '<=', 10, 'it sleeps');
	is(processes('worker'), join("\n", @workers), 'no process has come or gone');
}

$node->safe_psql('postgres', 'CREATE DATABASE db60 TEMPLATE db10');
has_workers('db60', 1, 'a copy of a database with the extension gets a worker', 15);
$node->safe_psql('postgres', 'ALTER DATABASE db40 RENAME TO db70');
has_workers('db70', 1, 'a renamed one keeps its');
$node->safe_psql('postgres', 'DROP DATABASE db60');
$node->safe_psql('db70', 'DROP EXTENSION chatwebhook');
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
$node->safe_psql('db20', 'CREATE EXTENSION chatwebhook');
create_webhook($node, dbname => 'db20', name => 'db20', events => ['webhook.test']);
delivers('db10', 'those that run deliver');
# over a try or two, 10 seconds apart
sleep 12;
is(complaints(), 1, 'it is said once');
like(slurp_file($node->logfile), qr/HINT:  Increase max_worker_processes, now 6, and restart the server\./,
	'with a hint');
is(processes('worker', 'db20'), '', 'another database finds no room');
$node->append_conf('postgresql.conf', 'chatwebhook.workers = 1');
$node->reload;
has_workers('db20', 1, 'it gets a worker when another has less', 20);
has_workers('db10', 1, 'which keeps one');
delivers('db20', 'it delivers');
is(complaints(), 1, 'it is not said again');
$node->stop;
done_testing();
