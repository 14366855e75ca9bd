# A full disk: first under the tables, then under WAL.
#
# Only a disk that is really full can show what becomes of events, deliveries and
# settles for which there is no room.  The disk is a small tmpfs that this test
# mounts in namespaces of its own, into which it starts itself anew.

use strict;
use warnings;

my $directory;

BEGIN
{
	# Once outside, as root of a namespace that may mount, and once inside, as
	# the user that PostgreSQL's programs accept.
	if (!defined $ENV{CHATWEBHOOK_SMALL_DISK})
	{
		require File::Temp;
		$directory = File::Temp::tempdir(CLEANUP => 0, DIR => $ENV{TMPDIR} // '/tmp');
		my $inside = 'mount -t tmpfs -o size=64m small "$1" || exit 77; disk=$1; uid=$2; gid=$3; shift 3; '
		  . 'CHATWEBHOOK_SMALL_DISK=$disk exec unshare -U --map-user="$uid" --map-group="$gid" -- "$@"';
		my @unshare = ('unshare', '-U', '-r', '-m', 'sh', '-c');
		my $gid = (split ' ', $()[0];
		if (system("@unshare[0 .. 3] sh -c 'mount -t tmpfs none $directory' 2>/dev/null") == 0)
		{
			exec @unshare, $inside, 'sh', $directory, $<, $gid, $^X, $0, @ARGV;
		}
		rmdir $directory;
	}
}

use FindBin;
use lib "$FindBin::Bin/../lib";
use Chatwebhook;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

$directory = $ENV{CHATWEBHOOK_SMALL_DISK};
plan skip_all => 'no file system can be mounted in a namespace here'
  if !defined $directory;

my $ballast = "$directory/ballast";
mkdir "$directory/space" or die "$directory/space: $!";
mkdir "$directory/wal" or die "$directory/wal: $!";

# Leave no room at all, or give all of it back.
sub fill
{
	open my $file, '>:raw', $ballast or die "$ballast: $!";
	1 while syswrite $file, "\0" x 4096;
	is($! + 0, POSIX::ENOSPC(), 'the disk is full');
	close $file;
}
sub give_room { unlink $ballast or die "$ballast: $!"; }

my $receiver = start_receiver();

#
# The tables are on a disk that is full.
#
my $node = new_node(
	'main',
	-extension => 0,
	autovacuum => 'off',
	log_statement => 'none');
$node->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$directory/space'");
$node->safe_psql('postgres', 'CREATE DATABASE chats TABLESPACE small');

sub query { return sql_in('chats', @_); }

query(q{
	CREATE EXTENSION chatwebhook;
	CREATE TABLE chat (id serial, n int) TABLESPACE pg_default;
	INSERT INTO chatwebhook.event_type (name) VALUES ('t.chat');
	CREATE TRIGGER emit AFTER INSERT ON chat FOR EACH ROW EXECUTE FUNCTION
		chatwebhook.emit('t.chat', 'n');
});
create_webhook($node, dbname => 'chats', name => 'slow', path => '/hang-until-told',
	events => ['t.chat'], timeout => '5 min', max_in_flight => 50);
create_webhook($node, dbname => 'chats', name => 'fast', events => ['t.chat']);

# Chat rows until one fails; how many there are then.
my $n = 0;
sub chat
{
	my ($most) = @_;
	my $error = '';
	for my $i (1 .. $most)
	{
		my ($status, $stdout, $stderr) = $node->psql('chats',
			'INSERT INTO chat (n) SELECT g FROM generate_series(1, 500) g');
		$error = $stderr;
		last if $status != 0;
		$n += 500;
	}
	return $error;
}

sub errors
{
	return scalar grep { /\] (ERROR|WARNING|PANIC|FATAL):/ && !/071_full_disk/ }
	  split /\n/, slurp_file($node->logfile);
}

is(chat(1), '', 'there is room for chat rows and their events');
ok($receiver->wait_for(2, 'slow'), 'some requests are under way');
fill();
my $error = chat(100);
like($error, qr/ERROR:  could not extend file .*No space left on device/,
	'when the disk is full, a chat row fails with the error itself');
is(query('SELECT count(*) FROM chat'), $n, 'and is not there');
is(query(q{SELECT count(*) FROM chatwebhook.event WHERE type = 't.chat'}), $n,
	'just as its event');
$receiver->set(up => ['slow']);

# The worker cannot settle: it must neither spin nor fill the log, which is on
# the same disk often enough.
ok( $node->poll_query_until('chats',
		q{SELECT last_error LIKE '%No space left on device%' FROM chatwebhook.worker_status}),
	'worker_status says what is wrong');
my ($lines, $start) = (errors(), time);
my $ticks = sub {
	my $pid = query('SELECT pid FROM chatwebhook.worker_status');
	my @fields = split ' ', slurp_file("/proc/$pid/stat") =~ s/^.*\) //sr;
	return $fields[11] + $fields[12];
};
my $before = $ticks->();
my $requests = $receiver->count;
# not a wait: what is measured is what it does while time passes
sleep 5;
my $used = ($ticks->() - $before) / 100;
my $elapsed = time - $start;
$lines = errors() - $lines;
diag(sprintf 'in %.1f s on a full disk: %d log lines, %.2f s of CPU, %d requests',
	$elapsed, $lines, $used, $receiver->count - $requests);
cmp_ok($lines, '<=', 30, 'few lines in the log');
cmp_ok($used, '<', 1, 'little work');

give_room();
is(chat(1), '', 'there is room again: chat rows go in');
ok($receiver->wait_for($n, 'slow'), 'everything is sent');
ok(wait_idle($node, dbname => 'chats'), 'and settled');
is( query(q{SELECT webhook_name, status, count(*) FROM chatwebhook.delivery GROUP BY 1, 2 ORDER BY 1}),
	"fast|delivered|$n\nslow|delivered|$n",
	'every event to every webhook');
foreach my $label ('fast', 'slow')
{
	my %ids;
	$ids{ $_->{headers}{'webhook-id'} }++ foreach $receiver->log($label);
	is(scalar keys %ids, $n, "$label: every event was received");
	is(scalar(grep { $_ > 1 } values %ids), 0, "$label: none twice");
}
$node->stop;

#
# So is WAL: the server itself goes down, and comes back when there is room.
#
$node = new_node(
	'wal',
	-init => [ extra => [ '--encoding=UTF8', '--locale=C', "--waldir=$directory/wal/x", '--wal-segsize=1' ] ],
	min_wal_size => '2MB',
	max_wal_size => '8MB',
	restart_after_crash => 'off');
$node->safe_psql('postgres', q{
	CREATE TABLE chat (id serial, n int);
	INSERT INTO chatwebhook.event_type (name) VALUES ('t.chat');
	CREATE TRIGGER emit AFTER INSERT ON chat FOR EACH ROW EXECUTE FUNCTION
		chatwebhook.emit('t.chat', 'n')});
create_webhook($node, name => 'wal', events => ['t.chat'], path => '/delay-ms/5');
# few files are left to write to, and no checkpoint will provide more
$node->safe_psql('postgres', 'CHECKPOINT');
$node->safe_psql('postgres', q{ALTER SYSTEM SET max_wal_size = '1GB'});
$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
$node->poll_query_until('postgres', q{SELECT current_setting('max_wal_size') = '1GB'})
  or die 'max_wal_size is not raised';
fill();
my $committed = 0;
for (1 .. 200)
{
	my ($status) = $node->psql('postgres', 'INSERT INTO chat (n) SELECT g FROM generate_series(1, 50) g');
	last if $status != 0;
	$committed += 50;
}
cmp_ok($committed, '<', 10000, "the server goes down when WAL has no room, after $committed chat rows");
like(slurp_file($node->logfile), qr/PANIC:  could not .*No space left on device/, 'because of that');
give_room();
$node->stop('immediate', fail_ok => 1);
$node->{_pid} = undef;
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*) FROM chat'), $committed, 'with room it starts');
ok(wait_idle($node), 'and delivers');
my %ids;
$ids{ $_->{headers}{'webhook-id'} }++ foreach $receiver->log('wal');
is(scalar keys %ids, $committed, 'every event');
# what was under way, what was to be settled, and one settle that is not on disk:
# see 021_crash.pl
my $twice = grep { $_ > 1 } values %ids;
cmp_ok($twice, '<=', 32 + 2 * 100, "$twice of them twice, which no settle on disk had");
$node->stop;
done_testing();
