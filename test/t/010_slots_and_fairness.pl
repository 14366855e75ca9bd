# Deliveries flow: upon each commit when there is nothing else to do, up to the
# limits and not beyond, and past what one webhook, or another session's lock,
# holds up.
#
# Only real requests that hang, and locks that are held meanwhile, can show this.
# Nothing here measures a time, which is for bench/: what must not wait for
# something else arrives before that has happened, and since the worker reads its
# queue by itself once an hour only, whatever arrives was not waited for.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Chatwebhook;
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver();
my $node = new_node('main',
	autovacuum => 'off', max_prepared_transactions => 5);

# Every webhook here has an event type of its own, with the webhook's name.
sub add
{
	my ($name, $path, %columns) = @_;
	my $type = $columns{events} // "test.$name";
	sql("INSERT INTO chatwebhook.event_type (name) VALUES ('$type') ON CONFLICT DO NOTHING");
	my ($id) = create_webhook(
		$node,
		name => $name,
		path => $path,
		timeout => '5 minutes',
		%columns,
		events => [$type]);
	return $id;
}

# Emit that many, in one transaction.
sub emit
{
	my ($name, $n) = @_;
	sql(qq{
		SELECT count(chatwebhook.emit('test.$name', null, null,
			jsonb_build_object('n', n))) FROM generate_series(1, $n) n});
}

# Wait until all deliveries of a webhook are finished, in this way.
sub finished
{
	my ($name, $n, $text, $status) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$status //= 'delivered';
	becomes_true(qq{
			SELECT count(*) = $n AND count(*) FILTER (WHERE status = '$status') = $n
			  FROM chatwebhook.delivery WHERE webhook_name = '$name'},
		$text);
}

# Emit events one by one, each when the one before it is settled, after a flood
# of others if there is one.  Returns the times of their commits, by the clock
# that the receiver has as well.
my $series = 0;

sub one_by_one
{
	my ($name, $n, $flood) = @_;
	my $table = 'committed_' . ++$series;
	my $begin = defined $flood ? "$flood; COMMIT;" : '';

	sql("CREATE UNLOGGED TABLE $table (id uuid, at float8)");
	sql(qq{
		DO \$\$
		DECLARE
			event uuid;
			give_up constant timestamptz := clock_timestamp()
				+ '$PostgreSQL::Test::Utils::timeout_default s';
		BEGIN
			$begin
			FOR i IN 1 .. $n LOOP
				event := chatwebhook.emit('test.$name', null, null, '{}');
				COMMIT;
				INSERT INTO $table VALUES (event, extract(epoch FROM clock_timestamp()));
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
	return map { split /\|/ } split /\n/, sql("SELECT * FROM $table");
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
	sql("ALTER SYSTEM SET chatwebhook.$name = '$value'");
	$node->reload;
	wait_until("SELECT current_setting('chatwebhook.$name') = '$value'")
	  or die "chatwebhook.$name is not changed\n";
}

#
# At rest: each commit wakes the worker.
#
{
	add('rest', '/ok');
	one_by_one('rest', 200);
	is($receiver->count('rest'), 200, 'at rest each event is sent upon its commit');
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
	# the last is for others, but the receiver may count an answer that is on its way
	like(widest('pool'), qr/^[78]$/,
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
	sql("UPDATE chatwebhook.webhook SET url = '$url' WHERE id = '$id'");
	emit('mixed', 200);
	becomes_true(q{
			SELECT count(*) = 200 FROM chatwebhook.delivery
			 WHERE webhook_name = 'mixed' AND status = 'delivered'},
		'the other 200 of the same webhook pass by it');
	$receiver->set(up => ['mixed']);
	finished('mixed', 201, 'and it is finished when answered');
}

#
# Isolation: what others have waiting, or under way, delays nobody.
#
{
	add('beside', '/ok');
	# one that takes all slots but the reserve
	set('max_in_flight', 16);
	add('flooded', '/delay-ms/20', max_in_flight => 1000);
	my $flood = 4000;
	my %committed = one_by_one('beside', 30, qq{
		PERFORM chatwebhook.emit('test.flooded', null, null,
			jsonb_build_object('n', n)) FROM generate_series(1, $flood) n});
	finished('flooded', $flood, 'what was flooded is delivered');
	is(widest('flooded'), 14, 'one that is flooded has had all slots but an eighth');
	# how many others overtook each event that was there long before the last
	my @flooded = sort { $a <=> $b } map { $_->{time} } $receiver->log('flooded');
	my %arrived = map { $_->{headers}{'webhook-id'} => $_->{time} } $receiver->log('beside');
	my @waited;
	while (my ($id, $committed) = each %committed)
	{
		push @waited, scalar grep { $_ > $committed && $_ < $arrived{$id} } @flooded
		  if $committed < $flooded[ -$flood / 4 ];
	}
	cmp_ok(scalar @waited, '>=', 5, scalar @waited . ' events of another were emitted while many waited');
	cmp_ok(max(@waited), '<', $flood / 10,
		'none of which has waited for a tenth of them (' . max(@waited) . ')');
	set('max_in_flight', 256);

	add('hanging', '/hang');
	emit('hanging', 500);
	ok($receiver->wait_for(2, 'hanging'), '500 wait for one that hangs');
	one_by_one('beside', 100);
	is($receiver->count('hanging'), 2, 'one that hangs has held two slots, and others have passed it');

	foreach my $n (1 .. 10)
	{
		add("hanging_$n", '/hang', events => 'test.hangings');
	}
	emit('hangings', 100);
	ok( $receiver->wait_until(
			sub { 20 == grep { $_->{label} =~ /^hanging_/ } $receiver->log }),
		'ten more hang, each with two requests');
	one_by_one('beside', 50);
	is( sql(q{
			SELECT count(*) FROM chatwebhook.delivery
			 WHERE webhook_name LIKE 'hanging%' AND attempts > 0}),
		0, 'others have passed all eleven, which hang yet');

	# they would keep wait_until_idle() from its end
	sql(q{DELETE FROM chatwebhook.webhook WHERE name LIKE 'hanging%'});
}

#
# Locks of other sessions.  A worker may run into one, until its lock_timeout; then
# it is careful for a while, and says so in the log if it runs into one again.
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
	my $offset = -s $node->logfile;

	$receiver->set(down => ['victim']);
	emit('victim', 3);
	$expected += 3;
	$receiver->wait_for($before + 1, 'victim')
	  or die "the victim has no request\n";
	$session->query_safe('BEGIN');
	$session->query_safe($sql);
	$receiver->set(up => ['victim']);
	one_by_one('bystander', 25);
	unlike(slurp_file($node->logfile, $offset), qr/lock timeout/,
		"$what: others are delivered meanwhile, without a wait for each");
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
is( sql(qq{
		SELECT count(*) FROM chatwebhook.queue WHERE webhook_id = '$victim'}),
	3, 'locked queue rows: they are not settled yet');
$session->query_safe('COMMIT');
finished('victim', $expected, 'locked queue rows: they are settled after the lock is gone');

beside_lock('a locked health row',
	"SELECT 1 FROM chatwebhook.health WHERE webhook_id = '$victim' FOR UPDATE");
finished('victim', $expected, 'a locked health row: deliveries are settled');
$session->query_safe('COMMIT');
becomes_true(qq{
		SELECT total = $expected AND successes = $expected AND pending = 0
		  FROM chatwebhook.webhook_health WHERE webhook_id = '$victim'},
	'a locked health row: the health is told afterwards');

beside_lock('a deletion that is rolled back',
	"DELETE FROM chatwebhook.webhook WHERE id = '$victim'");
$session->query_safe('ROLLBACK');
finished('victim', $expected, 'a deletion that is rolled back: deliveries are settled');

beside_lock('a deletion that is committed',
	"DELETE FROM chatwebhook.webhook WHERE id = '$victim'");
$session->query_safe('COMMIT');
is( sql(q{
		SELECT count(*) FROM chatwebhook.delivery
		 WHERE webhook_name = 'victim' AND status = 'canceled'
		   AND last_error = 'the webhook was deleted'}),
	3, 'a deletion that is committed: what was pending is canceled');
is( sql(qq{
		SELECT count(*) FROM chatwebhook.queue WHERE webhook_id = '$victim'}),
	0, 'a deletion that is committed: nothing is left in the queue');

# A webhook that answers 410 while somebody is changing it.
{
	my $id = add('leaving', '/gone');
	$session->query_safe('BEGIN');
	$session->query_safe(
		"UPDATE chatwebhook.webhook SET max_retries = 7 WHERE id = '$id'");
	my $offset = -s $node->logfile;
	emit('leaving', 1);
	finished('leaving', 1, 'a webhook that answers 410 while it is locked', 'dead');
	one_by_one('bystander', 10);
	unlike(slurp_file($node->logfile, $offset), qr/lock timeout/, 'delays nobody');
	$session->query_safe('COMMIT');
	becomes_true(qq{
			SELECT NOT enabled AND disabled_reason LIKE '%410%' AND max_retries = 7
			  FROM chatwebhook.webhook WHERE id = '$id'},
		'and is disabled when the lock is gone');
}

# The whole table; nothing can be delivered then, but nothing breaks either.  What
# could not be claimed is found when the worker looks by itself.
{
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
	one_by_one('bystander', 10);
	is(sql(q{SELECT count(*) FROM chatwebhook.queue}), 0, 'and others flow again');
	set('poll_interval', '1h');
}
$session->quit;

#
# COMMIT PREPARED wakes the worker, too, though another session has emitted.
#
{
	add('prepared', '/ok');
	script(q{
		BEGIN;
		SELECT chatwebhook.emit('test.prepared', null, null, '{}');
		PREPARE TRANSACTION 'one'});
	one_by_one('bystander', 3);
	is($receiver->count('prepared'), 0, 'a prepared transaction sends nothing');
	sql(q{COMMIT PREPARED 'one'});
	ok($receiver->wait_for(1, 'prepared'), 'COMMIT PREPARED does');
}

ok(wait_idle($node), 'at the end everything is delivered');
is( sql(q{
		SELECT count(s.in_flight) FROM chatwebhook._all_in_flight() s
		  JOIN chatwebhook.webhook w ON w.id = s.webhook_id}),
	0, 'and nothing is claimed, but for webhooks that were deleted as they hung');

$node->stop('fast');
done_testing();
