# Only real requests over time can show that deliveries flow: at once when
# there is nothing else to do, up to the limits and not beyond, and past
# whatever one webhook, or somebody's lock, holds up.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Chatwebhook;
use HTTP::Tiny;
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $receiver = start_receiver();
my $node = new_node('main',
	autovacuum => 'off', max_prepared_transactions => 5);

# Every webhook here has an event type of its own, with the webhook's name.
sub add
{
	my ($name, $path, %columns) = @_;
	my $type = $columns{events} // "test.$name";
	$node->safe_psql('postgres',
		"INSERT INTO chatwebhook.event_type (name) VALUES ('$type') ON CONFLICT DO NOTHING");
	my ($id) = create_webhook(
		$node,
		name => $name,
		path => $path,
		timeout => '2 minutes',
		%columns,
		events => [$type]);
	return $id;
}

# Emit that many, in one transaction.
sub emit
{
	my ($name, $n) = @_;
	$node->safe_psql('postgres', qq{
		SELECT count(chatwebhook.emit('test.$name', null, null,
			jsonb_build_object('n', n))) FROM generate_series(1, $n) n});
}

# Wait until all deliveries of a webhook are finished, in this way.
sub finished
{
	my ($name, $n, $text, $status) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$status //= 'delivered';
	ok( $node->poll_query_until('postgres', qq{
			SELECT count(*) = $n AND count(*) FILTER (WHERE status = '$status') = $n
			  FROM chatwebhook.delivery WHERE webhook_name = '$name'}),
		$text);
}

# Emit events one by one, each when the one before it is settled, and measure
# the time from the end of COMMIT to the arrival at the receiver, in ms.  Both
# are read from the clock of this machine.  The worker is woken within COMMIT,
# so an arrival can even come first.  Returns these times, those that COMMIT
# took, and those when they arrived.
my $measured = 0;

sub measure
{
	my ($name, $n) = @_;
	my $table = 'measured_' . ++$measured;
	my %request;
	my @ms;

	$node->safe_psql('postgres',
		"CREATE UNLOGGED TABLE $table (id uuid, before float8, after float8)");
	$node->safe_psql('postgres', qq{
		DO \$\$
		DECLARE
			event uuid;
			before timestamptz;
			after timestamptz;
			give_up constant timestamptz := clock_timestamp()
				+ '$PostgreSQL::Test::Utils::timeout_default s';
		BEGIN
			FOR i IN 1 .. $n LOOP
				event := chatwebhook.emit('test.$name', null, null, '{}');
				before := clock_timestamp();
				COMMIT;
				after := clock_timestamp();
				INSERT INTO $table VALUES (event,
					extract(epoch FROM before), extract(epoch FROM after));
				WHILE EXISTS (SELECT FROM chatwebhook.queue q
							   WHERE q.event_id = event) LOOP
					IF clock_timestamp() > give_up THEN
						RAISE 'event % of % is not settled', i, $n;
					END IF;
					PERFORM pg_sleep(0.002);
				END LOOP;
				COMMIT;
			END LOOP;
		END
		\$\$});
	push @{ $request{ $_->{headers}{'webhook-id'} } }, $_
	  foreach $receiver->log($name);
	my (@commit, @arrived);
	foreach my $row (split /\n/,
		$node->safe_psql('postgres', "SELECT * FROM $table"))
	{
		my ($id, $before, $after) = split /\|/, $row;
		push @arrived, $request{$id}[0]{time};
		push @ms, 1000 * ($arrived[-1] - $after);
		push @commit, 1000 * ($after - $before);
	}
	return (\@ms, \@commit, \@arrived);
}

sub percentile
{
	my ($percent, @values) = @_;
	@values = sort { $a <=> $b } @values;
	return $values[ $percent / 100 * $#values ];
}

sub describe
{
	my ($what, @ms) = @_;
	diag(sprintf '%s: median %.2f ms, 95%% %.2f ms, worst %.2f ms (of %d)',
		$what, percentile(50, @ms), percentile(95, @ms), max(@ms),
		scalar @ms);
}

# The widest that a webhook, or those that share its label, has had requests.
sub widest
{
	my ($label) = @_;
	return max(map { $_->{concurrent} } $receiver->log($label));
}

# A setting that the worker reads before what is emitted next.
sub set
{
	my ($name, $value) = @_;
	$node->safe_psql('postgres',
		"ALTER SYSTEM SET chatwebhook.$name = '$value'");
	$node->reload;
	$node->poll_query_until('postgres',
		"SELECT current_setting('chatwebhook.$name') = '$value'")
	  or die "chatwebhook.$name is not changed\n";
}

#
# At rest: from COMMIT to the receiver.
#
{
	# What the machine itself needs, this minute, to get a request from one
	# process to another; half of it is measured before, half after.
	my @raw;
	my $http = HTTP::Tiny->new(keep_alive => 1);
	my $measure_raw = sub {
		my @sent;
		my $seen = $receiver->count('raw');
		foreach (1 .. 100)
		{
			push @sent, time;
			$http->get($receiver->url('/ok/-/raw'));
		}
		my @requests = $receiver->log('raw');
		push @raw,
		  map { 1000 * ($requests[ $seen + $_ ]{time} - $sent[$_]) } 0 .. 99;
	};

	add('rest', '/ok');
	emit('rest', 1);
	finished('rest', 1, 'the worker is warm');
	$measure_raw->();
	my ($ms, $commit) = measure('rest', 200);
	$measure_raw->();

	describe('raw loopback', @raw);
	describe('COMMIT itself', @$commit);
	describe('COMMIT to receiver, at rest', @$ms);
	# 2 ms where a loopback takes a fraction of one
	my $limit = max(2, 8 * percentile(50, @raw));
	cmp_ok(percentile(50, @$ms), '<', $limit,
		sprintf 'at rest an event arrives within %.1f ms of COMMIT', $limit);
}

#
# Limits.
#
{
	add('five', '/delay-ms/20', max_in_flight => 5);
	emit('five', 200);
	finished('five', 200, '200 events for a webhook with max_in_flight = 5');
	is(widest('five'), 5, 'at most five requests, and as many as that');

	set('max_in_flight', 8);
	add("pool_$_", '/delay-ms/20/-/pool', max_in_flight => 5, events => 'test.pool')
	  foreach 1 .. 4;
	emit('pool', 60);
	finished("pool_$_", 60, "60 events for webhook $_ of 4") foreach 1 .. 4;
	is(widest('pool'), 8,
		'chatwebhook.max_in_flight = 8 holds for all of them together');
}

#
# No batches: slots are filled as they become free.
#
{
	set('max_in_flight', 4);
	add('holding', '/hang-until-told');
	add('passing', '/ok');
	emit('passing', 1);
	finished('passing', 1, 'a webhook is known to work');
	emit('holding', 5);
	ok($receiver->wait_for(2, 'holding'), 'two of four slots wait for an answer');
	emit('passing', 200);
	finished('passing', 201, '200 others pass through the rest');
	is($receiver->count('holding'), 2,
		'while a webhook that has not answered yet has no more than two');
	set('max_in_flight', 256);
	$receiver->set(up => ['holding']);
	finished('holding', 5, 'those that waited are finished when answered');

	# the same within a webhook, which has moved meanwhile
	my $id = add('mixed', '/hang-until-told');
	emit('mixed', 1);
	ok($receiver->wait_for(1, 'mixed'), 'a request waits for its answer');
	my $url = $receiver->url('/ok/-/mixed');
	$node->safe_psql('postgres',
		"UPDATE chatwebhook.webhook SET url = '$url' WHERE id = '$id'");
	emit('mixed', 200);
	ok( $node->poll_query_until('postgres', q{
			SELECT count(*) = 200 FROM chatwebhook.delivery
			 WHERE webhook_name = 'mixed' AND status = 'delivered'}),
		'the other 200 of the same webhook pass by it');
	$receiver->set(up => ['mixed']);
	finished('mixed', 201, 'and it is finished when answered');
}

#
# Isolation: what others have waiting, or under way, delays nobody.
#
{
	add('beside', '/ok');
	# one that would take all slots, for two seconds and more
	set('max_in_flight', 16);
	add('flooded', '/delay-ms/20', max_in_flight => 1000);
	emit('flooded', 4000);
	ok( $receiver->wait_until(sub { widest('flooded') == 16 }),
		'one that is flooded has all slots');
	my ($ms, undef, $arrived) = measure('beside', 30);
	finished('flooded', 4000, 'what was flooded is delivered');
	my $end = max(map { $_->{time} } $receiver->log('flooded'));
	my @during = map { $ms->[$_] } grep { $arrived->[$_] < $end } 0 .. $#$ms;
	cmp_ok(scalar @during, '>=', 5, 'meanwhile another has had events');
	describe('beside one that has all slots', @during);
	cmp_ok(percentile(95, @during), '<', 100, 'which arrived at once');
	set('max_in_flight', 256);

	add('hanging', '/hang');
	emit('hanging', 500);
	ok($receiver->wait_for(2, 'hanging'), '500 wait for one that hangs');
	($ms) = measure('beside', 100);
	describe('beside one that hangs with 500 waiting', @$ms);
	cmp_ok(percentile(95, @$ms), '<', 100, 'the same beside it');
	is($receiver->count('hanging'), 2, 'the one that hangs has held two slots');

	foreach my $n (1 .. 10)
	{
		add("hanging_$n", '/hang', events => 'test.hangings');
	}
	emit('hangings', 100);
	ok( $receiver->wait_until(
			sub { 20 == grep { $_->{label} =~ /^hanging_/ } $receiver->log }),
		'ten more hang, each with two requests');
	($ms) = measure('beside', 50);
	describe('beside eleven that hang', @$ms);
	cmp_ok(percentile(95, @$ms), '<', 100, 'the same beside eleven');

	# they would keep wait_until_idle() from its end
	$node->safe_psql('postgres',
		q{DELETE FROM chatwebhook.webhook WHERE name LIKE 'hanging%'});
}

#
# Locks of other sessions.  A worker may run into one once, until lock_timeout.
#
my $session = $node->background_psql('postgres');
$session->set_query_timer_restart;
my $victim = add('victim', '/hang-until-told');
add('bystander', '/ok');
my $expected = 0;

# With a request of the victim's under way, take a lock, have the request
# answered, and see how the bystander's deliveries fare.
sub beside_lock
{
	my ($what, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = $receiver->count('victim');

	$receiver->set(down => ['victim']);
	emit('victim', 3);
	$expected += 3;
	$receiver->wait_for($before + 1, 'victim')
	  or die "the victim has no request\n";
	$session->query_safe('BEGIN');
	$session->query_safe($sql);
	$receiver->set(up => ['victim']);
	my ($ms) = measure('bystander', 25);
	describe("beside $what", @$ms);
	cmp_ok(max(@$ms), '<', 600, "$what: others are not delayed by more than half a second");
	cmp_ok(percentile(75, @$ms), '<', 100, "$what: and few are at all");
}

beside_lock('a locked webhook',
	"SELECT 1 FROM chatwebhook.webhook WHERE id = '$victim' FOR UPDATE");
finished('victim', $expected, 'a locked webhook: its own are delivered');
$session->query_safe('COMMIT');

beside_lock('a changed webhook',
	"UPDATE chatwebhook.webhook SET max_retries = 7 WHERE id = '$victim'");
finished('victim', $expected, 'a changed webhook: its own are delivered');
$session->query_safe('COMMIT');

beside_lock('locked queue rows',
	"SELECT count(*) FROM (SELECT 1 FROM chatwebhook.queue WHERE webhook_id = '$victim' FOR UPDATE) q");
is( $node->safe_psql('postgres', qq{
		SELECT count(*) FROM chatwebhook.queue WHERE webhook_id = '$victim'}),
	3, 'locked queue rows: they are not settled yet');
$session->query_safe('COMMIT');
finished('victim', $expected, 'locked queue rows: they are settled after the lock is gone');

beside_lock('a locked health row',
	"SELECT 1 FROM chatwebhook.health WHERE webhook_id = '$victim' FOR UPDATE");
finished('victim', $expected, 'a locked health row: deliveries are settled');
$session->query_safe('COMMIT');
ok( $node->poll_query_until('postgres', qq{
		SELECT total = $expected AND successes = $expected AND pending = 0
		  FROM chatwebhook.webhook_health WHERE webhook_id = '$victim'}),
	'a locked health row: the health is told afterwards');

beside_lock('a deletion that is rolled back',
	"DELETE FROM chatwebhook.webhook WHERE id = '$victim'");
$session->query_safe('ROLLBACK');
finished('victim', $expected, 'a deletion that is rolled back: deliveries are settled');

beside_lock('a deletion that is committed',
	"DELETE FROM chatwebhook.webhook WHERE id = '$victim'");
$session->query_safe('COMMIT');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM chatwebhook.delivery
		 WHERE webhook_name = 'victim' AND status = 'canceled'
		   AND last_error = 'the webhook was deleted'}),
	3, 'a deletion that is committed: what was pending is canceled');
is( $node->safe_psql('postgres', qq{
		SELECT count(*) FROM chatwebhook.queue WHERE webhook_id = '$victim'}),
	0, 'a deletion that is committed: nothing is left in the queue');

# A webhook that answers 410 while somebody is changing it.
{
	my $id = add('leaving', '/gone');
	$session->query_safe('BEGIN');
	$session->query_safe(
		"UPDATE chatwebhook.webhook SET max_retries = 7 WHERE id = '$id'");
	emit('leaving', 1);
	finished('leaving', 1, 'a webhook that answers 410 while it is locked', 'dead');
	my ($ms) = measure('bystander', 10);
	cmp_ok(max(@$ms), '<', 600, 'delays nobody');
	$session->query_safe('COMMIT');
	ok( $node->poll_query_until('postgres', qq{
			SELECT NOT enabled AND disabled_reason LIKE '%410%' AND max_retries = 7
			  FROM chatwebhook.webhook WHERE id = '$id'}),
		'and is disabled when the lock is gone');
}

# The whole table; nothing can be delivered then, but nothing breaks either.
{
	# a webhook whose claim has failed by itself is left alone for a minute, or
	# until a sweep
	set('poll_interval', '1s');
	add('survivor', '/hang-until-told');
	emit('survivor', 5);
	ok($receiver->wait_for(2, 'survivor'), 'requests wait for their answers');
	my $offset = -s $node->logfile;
	$session->query_safe('BEGIN');
	$session->query_safe('LOCK TABLE chatwebhook.queue IN ACCESS EXCLUSIVE MODE');
	$receiver->set(up => ['survivor']);
	$node->wait_for_log(qr/ERROR:  canceling statement due to lock timeout/,
		$offset);
	$session->query_safe('COMMIT');
	finished('survivor', 5, 'all are delivered after a lock on the queue is gone');
	my ($ms) = measure('bystander', 10);
	cmp_ok(max(@$ms), '<', 600, 'and others flow again');
	set('poll_interval', '1h');
}
$session->quit;

#
# COMMIT PREPARED wakes the worker, too, though another session has emitted.
#
{
	add('prepared', '/ok');
	$node->safe_psql('postgres', q{
		BEGIN;
		SELECT chatwebhook.emit('test.prepared', null, null, '{}');
		PREPARE TRANSACTION 'one'});
	measure('bystander', 3);
	is($receiver->count('prepared'), 0, 'a prepared transaction sends nothing');
	my $start = time;
	$node->safe_psql('postgres', q{COMMIT PREPARED 'one'});
	ok($receiver->wait_for(1, 'prepared'), 'COMMIT PREPARED does');
	cmp_ok(time - $start, '<', 1, 'at once');
}

ok(wait_idle($node), 'at the end everything is delivered');
is( $node->safe_psql('postgres', q{
		SELECT count(*) FROM chatwebhook._in_flight() f
		  JOIN chatwebhook.webhook w ON w.id = f.webhook_id}),
	0, 'and nothing is claimed, but for webhooks that were deleted as they hung');

$node->stop('fast');
done_testing();
