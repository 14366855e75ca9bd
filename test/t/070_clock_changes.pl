# The clock is set, and deliveries go on.
#
# Only a whole server whose clock is set can show what that does to deliveries that
# are queued, wait for their retry, are under way, or are held back by a rate limit
# or a breaker, and to those whose transaction began before.
#
# A library in LD_PRELOAD shifts the time of day that the server is told, but not
# the monotonic clock, as when an administrator sets the clock or a machine wakes
# up with a wrong one.  A delivery must be sent when it would have been, more or
# less, and never wait for the clock to catch up.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Chatwebhook;
use Clock qw(jump with_clock);
use Session;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $hour = 3600;

plan skip_all => Clock::problem() if Clock::problem();

my $receiver = start_receiver();
my $node;
with_clock(
	sub {
		$node = new_node(
			'main',
			'chatwebhook.breaker_threshold' => 3,
			'chatwebhook.retention' => '90min',
			max_prepared_transactions => 2,
			autovacuum => 'off');
	});

sub emit
{
	my ($type, $n) = @_;
	return sql(sprintf q{SELECT count(*) FROM (
		SELECT chatwebhook.emit('%s', null, 'c', '{"n": 1}')
		  FROM generate_series(1, %d)) e}, $type, $n // 1);
}

# The last number that was given to a delivery.
sub last_id
{
	return sql('SELECT max(id) FROM chatwebhook.delivery');
}

# What is emitted now arrives, and not only in an hour or a day, when the clock has
# caught up or the worker looks by itself.
sub arrives
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = $receiver->count('new');
	my $id = last_id();
	emit('t.new');
	ok($receiver->wait_for($before + 1, 'new'), "$name: a new event arrives");
	cmp_ok(last_id(), '>', $id, "$name: ids go on ascending");
}

foreach my $type ('new', 'retry', 'rated', 'broken', 'slow', 'open', 'held')
{
	sql("INSERT INTO chatwebhook.event_type (name) VALUES ('t.$type')");
}
create_webhook($node, name => 'new', events => ['t.new']);
create_webhook($node, name => 'open', events => ['t.open']);
create_webhook($node, name => 'retry', events => ['t.retry'], path => '/flaky/1',
	backoff => '6 s');
create_webhook($node, name => 'rated', events => ['t.rated'], rate_limit => 4);
create_webhook($node, name => 'broken', events => ['t.broken'],
	path => '/down-until-told', max_retries => 20, backoff => '1 s',
	backoff_multiplier => 1);
create_webhook($node, name => 'slow', events => ['t.slow'], path => '/flaky/1',
	backoff => '1 s');
create_webhook($node, name => 'held', events => ['t.held'], path => '/hang-until-told');
create_webhook($node, name => 'slower', events => ['t.slow'],
	path => '/hang-until-told', timeout => '5 minutes');

# One of each kind in whatever state it has when the clock is set.
my %expected = (retry => 0, rated => 0, open => 0, slow => 0, slower => 0);

sub prepare
{
	emit('t.retry');
	$expected{retry} += 2;
	$receiver->wait_for($expected{retry} - 1, 'retry') or die;
	script('BEGIN; SELECT chatwebhook.emit(\'t.open\', null, null, \'{}\'); PREPARE TRANSACTION \'open\'');
	emit('t.broken', 3);
	wait_until(q{
		SELECT state = 'paused' FROM chatwebhook.webhook_health
		 WHERE name = 'broken'}) or die;
	$expected{rated} += 12;
	emit('t.rated', 12);
	$expected{slow} += 2;
	$expected{slower} += 1;
	emit('t.slow');
	$receiver->wait_for($expected{slower}, 'slower') or die;
}

# See that all of it arrives.
sub is_delivered
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$receiver->set(up => [ 'broken', 'slower' ]);
	sql("COMMIT PREPARED 'open'");
	$expected{open}++;
	ok($receiver->wait_for($expected{open}, 'open'),
		"$name: what was emitted before and committed after arrives");
	foreach my $label ('rated', 'retry', 'slow', 'slower')
	{
		ok($receiver->wait_for($expected{$label}, $label), "$name: $label");
	}
	ok(wait_idle($node), "$name: nothing is left");
	$receiver->set(down => [ 'broken', 'slower' ]);
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE status <> 'delivered'}),
		0, "$name: all of it was delivered");
}

#
# An hour back.
#
prepare();
jump(-$hour);
arrives('an hour back');
is_delivered('an hour back');
is(sql('SELECT count(*) > 0 FROM chatwebhook.delivery WHERE created_at > clock_timestamp()'),
	't', 'the clock has not caught up yet');

#
# Another hour, while no server runs and something is queued.
#
sql('ALTER SYSTEM SET chatwebhook.enabled = off');
$node->reload;
wait_until(q{SELECT current_setting('chatwebhook.enabled') = 'off'})
  or die;
my $before = $receiver->count('new');
my $last = last_id();
emit('t.new', 50);
$node->stop;
jump(-$hour);
$node->append_conf('postgresql.auto.conf', 'chatwebhook.enabled = on');
with_clock(sub { $node->start });
ok($receiver->wait_for($before + 50, 'new'),
	'what was queued before the server was started with an earlier clock arrives');
ok(wait_idle($node), 'nothing is left');
arrives('after the restart');

# What is finished has the highest numbers; a restart must not forget them.
$last = last_id();
$node->stop;
jump(-60);
with_clock(sub { $node->start });
wait_until('SELECT count(*) = 1 FROM chatwebhook.worker_status')
  or die;
emit('t.new');
cmp_ok(last_id(), '>', $last, 'ids go on behind a restart with an empty queue');
ok(wait_idle($node), 'nothing is left');

# nor must the first session that emits, before any worker has seen the tables, and
# a prepared transaction that nobody sees
script('BEGIN; SELECT chatwebhook.emit(\'t.open\', null, null, \'{}\'); PREPARE TRANSACTION \'unseen\'');
$last = last_id();
$node->append_conf('postgresql.auto.conf', q{chatwebhook.databases = 'none'});
$node->stop;
jump(-60);
with_clock(sub { $node->start });
is(sql('SELECT count(*) FROM chatwebhook.worker_status'), 0, 'no worker is there');
emit('t.new');
sql("COMMIT PREPARED 'unseen'");
$expected{open}++;
is(sql("SELECT count(*) FROM chatwebhook.queue WHERE id > $last"), 2, 'ids go on behind those that were given before');
cmp_ok(sql("SELECT max(q.id) FILTER (WHERE e.type = 't.new') - max(q.id) FILTER (WHERE e.type = 't.open')
	FROM chatwebhook.queue q JOIN chatwebhook.event e ON e.id = q.event_id"), '>', 0, 'and behind what was not committed');
sql('ALTER SYSTEM RESET chatwebhook.databases');
$node->reload;
ok(wait_idle($node), 'nothing is left');

#
# What is young stays, what is old goes.
#
# The end of a pass of retention, known by an alert that is old enough.
sub wait_for_pass
{
	my ($age) = @_;
	sql("INSERT INTO chatwebhook.alert (id, webhook_id, webhook_name, kind, message, opened_at, closed_at)
		SELECT gen_random_uuid(), id, name, 'backlog', 'old', clock_timestamp() - '$age'::interval,
		       clock_timestamp() - '$age'::interval
		  FROM chatwebhook.webhook LIMIT 1");
	$node->reload;
	return wait_until(q{SELECT count(*) = 0 FROM chatwebhook.alert WHERE message = 'old'});
}
my $finished = sql('SELECT count(*) FROM chatwebhook.delivery');
ok(wait_for_pass('100 min'), 'a pass of retention ends while the clock is behind');
is(sql('SELECT count(*) FROM chatwebhook.delivery'), $finished,
	'it has removed nothing that is young');

#
# Forward again, to where the clock was right.
#
prepare();
jump(2 * $hour + 60);
arrives('two hours on');
is_delivered('two hours on');

#
# Forward by mistake, and back at once.
#
prepare();
jump(24 * $hour);
arrives('a day on');
jump(-24 * $hour);
arrives('and back');
is_delivered('on and back');

#
# Forward while a settle waits for a lock.  Later deliveries must not wait an hour
# to be settled.
#
emit('t.held');
ok($receiver->wait_for(1, 'held'), 'a request is under way');
my $session = Session->new($node, 'postgres');
$session->query('BEGIN');
$session->query('SELECT id FROM chatwebhook.queue FOR UPDATE');
$receiver->set(up => ['held']);
my $worker = sql('SELECT pid FROM chatwebhook.worker_status');
ok(wait_until("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $worker"), 'its settle waits');
jump($hour);
$session->query('COMMIT');
ok(wait_idle($node), 'it is settled');
arrives('forward during a settle');
ok(wait_until('SELECT count(*) = 0 FROM chatwebhook.queue'), 'and what arrives is settled');

is( sql('SELECT count(*) - count(DISTINCT id) FROM chatwebhook.delivery'),
	0, 'every id was given once');
my @errors = grep { /^\S+ \S+ \S+ \[\d+\] (ERROR|WARNING|PANIC):/ }
  split /\n/, slurp_file($node->logfile);
is("@errors", '', 'no worker has met an error');

$node->stop;
done_testing();
