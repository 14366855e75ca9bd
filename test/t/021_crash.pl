# What a crash costs: repeats, and no more of them than were under way.
#
# Only a run that is broken off in the middle can show this.  Events are emitted
# in many transactions while others are delivered; meanwhile the worker is ended
# by SIGTERM, the worker is killed (upon which the server restarts), and the
# server is stopped in immediate mode, each twice.  In the end the receiver must
# have every event whose COMMIT was answered, none that did not commit, and few of
# them more than once.
#
# How many more than once: those that had been sent and not settled, or settled
# and not yet flushed.  These are the requests under way, at most the sum of
# max_in_flight of the webhooks; the answers that wait to be settled together,
# fewer than the batch that triggers a settle (SETTLE_BATCH in src/settle.c); and
# one settle that is on its way to the disk.  A worker that is ended by SIGTERM
# settles its answers before it leaves, so only the requests under way count then.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Chatwebhook;
use HTTP::Tiny;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my @names = ('crm', 'mail');
my $max_in_flight = 16;
my $settle_batch = 100;
my $events_per_round = 500;
my @rounds = ('term', 'kill', 'immediate') x 2;

my $window = $max_in_flight * @names;
my %bound = (
	term => $window,
	kill => $window + 2 * $settle_batch,
	immediate => $window + 2 * $settle_batch);

my $node = new_node('main', 'restart_after_crash' => 'on');
my $receiver = start_receiver();
my $http = HTTP::Tiny->new;

# Longer than the test may take: no request gives up for want of an answer.
create_webhook(
	$node,
	name => $_,
	path => '/delay-ms/10',
	max_in_flight => $max_in_flight,
	timeout => '5 minutes') foreach @names;

# The worker's process, once it is there.
sub worker_pid
{
	wait_until('SELECT count(*) = 1 FROM chatwebhook.worker_status')
	  or die "there is no worker\n";
	return sql('SELECT pid FROM chatwebhook.worker_status');
}

# How many requests there were; the receiver counts without reading its log.
sub received
{
	my $response = $http->get($receiver->url('/_count'));
	my ($count) = $response->{content} =~ /"count": (\d+)/
	  or die "/_count: $response->{status} $response->{content}\n";
	return $count;
}

# Wait until there were that many.
sub wait_received
{
	my ($n) = @_;
	my $timeout = $PostgreSQL::Test::Utils::timeout_default;
	my $response =
	  HTTP::Tiny->new(timeout => $timeout + 5)
	  ->get($receiver->url("/_wait?n=$n&timeout=$timeout"));
	$response->{content} =~ /"reached": true/
	  or die "waited for $n requests: $response->{content}\n";
}

# A session that emits these numbers, each in a transaction.  It says which it
# has committed, and ends with its connection.
my %committed;

sub start_emitting
{
	my (@numbers) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir('emit');
	my $sql = '';
	foreach my $n (@numbers)
	{
		$sql .= "BEGIN;\n"
		  . "SELECT chatwebhook.emit('webhook.test', 'bot', 'c$n', '{\"n\": $n}');\n"
		  . "COMMIT;\n\\echo committed $n\n";
	}
	my $script = "$directory/emit.sql";
	my $session = { output => "$directory/output" };
	PostgreSQL::Test::Utils::append_to_file($script, $sql);
	$session->{run} = IPC::Run::start(
		[
			$node->installed_command('psql'), '-XAtq',
			'-v' => 'ON_ERROR_STOP=1',
			'-d' => $node->connstr('postgres'),
			'-f' => $script
		],
		'>' => $session->{output},
		'2>' => "$directory/errors",
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return $session;
}

sub finish_emitting
{
	my ($session) = @_;
	$session->{run}->finish;
	my @numbers = slurp_file($session->{output}) =~ /^committed (\d+)$/mg;
	$committed{$_} = 1 foreach @numbers;
	return scalar @numbers;
}

# How many requests were repeats of one that was there before.
sub repeats
{
	my %seen;
	return scalar grep { $seen{ $_->{label} }{ $_->{headers}{'webhook-id'} }++ }
	  $receiver->log;
}

my %break_off = (
	term => sub {
		my ($pid) = @_;
		# at once: what a psql takes to start would be enough for all the rest
		is(kill('TERM', $pid), 1, 'the worker is ended');
	},
	kill => sub {
		my ($pid) = @_;
		my $offset = -s $node->logfile;
		is(kill('KILL', $pid), 1, 'the worker is killed');
		$node->wait_for_log(
			qr/all server processes terminated; reinitializing/, $offset);
	},
	immediate => sub {
		$node->stop('immediate');
		$node->start;
	});

my $repeats = 0;
my $next = 1;
foreach my $round (1 .. @rounds)
{
	my $how = $rounds[ $round - 1 ];
	my $what = "round $round ($how)";
	my $pid = worker_pid();
	my $before = received();

	my $session = start_emitting($next .. $next + $events_per_round - 1);
	$next += $events_per_round;
	# long before what the webhooks should get in this round is all there
	wait_received($before + int($events_per_round * @names / 5));
	$break_off{$how}->($pid);
	my $at_break = received() - $before;
	my $committed = finish_emitting($session);

	wait_until('SELECT true')
	  or die "the server is not back\n";
	becomes_true("SELECT count(*) = 1 AND min(pid) <> $pid FROM chatwebhook.worker_status", "$what: another worker");
	ok(wait_idle($node), "$what: everything is delivered");
	my $new = repeats() - $repeats;
	$repeats += $new;
	diag("$what: $committed events committed, broken off after $at_break requests, $new repeats (at most $bound{$how})");
	cmp_ok($new, '<=', $bound{$how}, "$what: repeats are what was under way");
	cmp_ok($at_break, '<', $events_per_round * @names,
		"$what: it was in the middle");
}

# Sessions that lost their connection have left some out.
while (my @left = grep { !$committed{$_} } 1 .. @rounds * $events_per_round)
{
	finish_emitting(start_emitting(@left));
}
ok(wait_idle($node), 'the rest is delivered');

my %received;
foreach my $request ($receiver->log)
{
	my ($n) = $request->{body} =~ /"data":\{"n":(\d+)\}/;
	$received{ $request->{label} }{$n}{ $request->{headers}{'webhook-id'} }++;
}
my %stored = map { my ($id, $n) = split /\|/; ($id => $n) }
  split /\n/, sql(q{SELECT id, data->>'n' FROM chatwebhook.event});

my $deliveries = 0;
foreach my $name (@names)
{
	is(scalar(grep { !$received{$name}{$_} } keys %committed),
		0, "$name has every event that was committed");
	my %ids = map { %$_ } values %{ $received{$name} };
	is(scalar(grep { !$ids{$_} } keys %stored),
		0, "$name has every event that is stored");
	is(scalar(grep { !$stored{$_} } keys %ids),
		0, "$name has none that is not");
	$deliveries += keys %stored;
}
cmp_ok($deliveries, '>=', 6000, "$deliveries deliveries");
is(scalar(grep { !$_->{verified}{standard} } $receiver->log),
	0, 'every request was signed');

is( sql(q{
		SELECT count(*), count(*) FILTER (WHERE status = 'delivered'),
			   count(DISTINCT (webhook_id, event_id))
		  FROM chatwebhook.delivery}),
	"$deliveries|$deliveries|$deliveries",
	'every delivery is recorded once, as delivered');
is(sql('SELECT count(*) FROM chatwebhook.queue'),
	0, 'nothing is left in the queue');
is(sql('SELECT count(in_flight) FROM chatwebhook._all_in_flight()'),
	0, 'nothing is left claimed');
is( sql('SELECT in_flight FROM chatwebhook.worker_status'),
	0,
	'nothing is under way');

# A request that hangs is sent again by the next worker.
{
	create_webhook($node, name => 'hung', path => '/hang',
		events => ['lead.captured'], timeout => '5 minutes');
	my $pid = worker_pid();
	sql(q{
		SELECT chatwebhook.emit('lead.captured', null, null,
			'{"email": "a@example.com", "source": "widget", "conversationSummary": "hi"}')});
	ok($receiver->wait_for(1, 'hung'), 'a request hangs');
	is( sql(q{
			SELECT in_flight FROM chatwebhook.webhook_health
			 WHERE name = 'hung'}),
		1,
		'it is claimed');

	sql("SELECT pg_terminate_backend($pid)");
	ok($receiver->wait_for(2, 'hung'), 'it is sent again');
	my @requests = $receiver->log('hung');
	is( $requests[1]{headers}{'webhook-id'},
		$requests[0]{headers}{'webhook-id'},
		'with the same webhook-id');
	isnt(worker_pid(), $pid, 'by another worker');

	# The worker must not outlive its server, or that could not start again.
	my @pids =
	  (worker_pid(), slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/);
	$node->kill9;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	sleep 0.01 while (grep { kill 0, $_ } @pids) && time < $deadline;
	is(scalar(grep { kill 0, $_ } @pids), 0,
		'a worker with a request under way goes when the postmaster is killed');
	$node->start;
	ok($receiver->wait_for(3, 'hung'), 'its request is sent again as well');
}

$node->stop('fast');
done_testing();
