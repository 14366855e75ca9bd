# The clock is set while webhooks are held back, with several workers.
#
# Only several workers, all of which see that the clock was set, can show that the
# pauses, probes and rate limits that they share follow it once: none ends early,
# and none lasts until the clock has caught up.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use Clock qw(jump with_clock);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

plan skip_all => Clock::problem() if Clock::problem();

my $hour = 3600;
my $workers = 3;
my $receiver = start_receiver();
my $node;
with_clock(sub {
	$node = new_node('main', 'chatwebhook.workers' => $workers, 'chatwebhook.breaker_threshold' => 3);
});
sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.clock')});
becomes_true("SELECT count(*) = $workers FROM chatwebhook.worker_status", 'all workers are there');

create_webhook($node, name => 'bystander', chatbot_id => 'bystander', events => ['test.clock']);

sub emit
{
	my ($chatbot, $n) = @_;
	sql(qq{SELECT count(chatwebhook.emit('test.clock', '$chatbot', NULL, '{}')) FROM generate_series(1, $n)});
	return;
}

# Wait until no worker has been running for a while.  A worker that has been woken
# but has not run yet looks asleep, and would compare a time from before the jump
# with one from after it.
sub all_rest
{
	my @pids = split /\n/, sql('SELECT pid FROM chatwebhook.worker_status');
	my $switches = sub {
		return join ' ', map { slurp_file("/proc/$_/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m } @pids;
	};
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $deadline)
	{
		my $before = $switches->();
		sleep 0.3;
		return 1 if $switches->() eq $before;
	}
	return 0;
}

# The seconds for which each is held back.
my $hold = 8;

# All workers have something to send to each of these, and are held back: by the
# receiver, the breaker, and the rate limit.  The last request before that was the
# one of this number.
my %kinds = (
	asks => {
		n => 1, path => "/fail/1/then/ok?status=429&retry_after=$hold", max_in_flight => 1 },
	broken => {
		n => 3, path => '/fail/3/then/ok', backoff => "$hold s", max_backoff => "$hold s", max_in_flight => 1 },
	limited => {
		n => 1, path => '/ok', rate_limit => 1 / $hold });

# Twice each: workers wait for the time that they were told, or ask again at once.
my %held = map { ($_ => $kinds{$_}, "$_ woken" => $kinds{$_}) } keys %kinds;

foreach my $jump (-$hour, $hour)
{
	my $what = $jump < 0 ? 'back' : 'on';

	foreach my $name (sort keys %held)
	{
		my %columns = %{ $held{$name} };
		my $n = delete $columns{n};
		my $label = "$name $what";
		create_webhook($node, name => $label, chatbot_id => $label, events => ['test.clock'],
			max_retries => 100, %columns);
		emit($label, $n);
	}
	foreach my $name (sort keys %held)
	{
		my $n = $held{$name}{n};
		ok($receiver->wait_for($n, "$name $what"), "$what: $name: requests that have it held back");
		becomes_true(qq{SELECT state = 'paused' AND in_flight = 0 FROM chatwebhook.webhook_health WHERE name = '$name $what'},
			"$what: $name: it is paused") if $name !~ /limited/;
	}
	# what comes now no worker sends
	emit("$_ $what", 12) foreach sort keys %held;
	ok(all_rest(), "$what: all workers rest");
	my $before = sql('SELECT extract(epoch FROM clock_timestamp())');
	jump($jump);
	cmp_ok(abs(sql('SELECT extract(epoch FROM clock_timestamp())') - $before), '>', $hour / 2, "$what: the clock is set");
	# a commit wakes all workers, which see it
	emit('bystander', 1);
	sql(qq{SELECT count(chatwebhook.set_credential(id, 'unused', 'x')) FROM chatwebhook.webhook WHERE name ~ 'woken'});
	foreach my $name (sort keys %held)
	{
		my $n = $held{$name}{n};
		my $label = "$name $what";
		ok($receiver->wait_for($n + 1, $label), "$what: $name: goes on");
		my @times = map { $_->{time} } $receiver->log($label);
		cmp_ok($times[$n] - $times[ $n - 1 ], '>=', $hold - 0.5, "$what: $name: not before its time");
	}
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'bystander'});
}

$node->stop;
done_testing();
