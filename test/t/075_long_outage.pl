# A receiver is down for three days, and loses nothing.
#
# Only a server whose clock is set on, hour after hour, can show that the schedule
# that Standard Webhooks recommends outlasts 72 hours of an outage, that each retry
# comes when it is listed, and that all of it arrives afterwards, in order where
# that was asked for.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use Clock qw(jump with_clock);
use List::Util qw(max min);
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => Clock::problem() if Clock::problem();

my $hour = 3600;
my $outage = 72 * $hour;
my ($schedule) = slurp_file("$FindBin::Bin/../../docs/concepts.md") =~ /retry_delays => '(\{[^']*\})'/
  or die 'docs/concepts.md shows no schedule';

my $receiver = start_receiver();
my $node;
with_clock(sub { $node = new_node('main') });
sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.outage')});

# a paused webhook is probed at once, which takes no time of the simulated outage
my %probed = (backoff => '10 ms', max_backoff => '20 ms');
create_webhook($node, name => 'patient', path => '/down-until-told', chatbot_id => 'shop', events => ['test.outage'],
	retry_delays => $schedule, %probed);
create_webhook($node, name => 'ordered', path => '/down-until-told', chatbot_id => 'shop', events => ['test.outage'],
	retry_delays => $schedule, ordered => 't', %probed);
create_webhook($node, name => 'batches', path => '/down-until-told', chatbot_id => 'shop', events => ['test.outage'],
	retry_delays => $schedule, batch_size => 10, %probed);
create_webhook($node, name => 'hasty', path => '/down-until-told', chatbot_id => 'shop', events => ['test.outage'], %probed);

my $n = 0;

# So many events, in three conversations.
sub emit
{
	my ($count) = @_;
	sql(sprintf q{SELECT count(chatwebhook.emit('test.outage', 'shop', 'c' || n %% 3, jsonb_build_object('n', n)))
		FROM generate_series(%d, %d) AS n}, $n + 1, $n + $count);
	$n += $count;
	return;
}

# Pending deliveries for which no earlier one of a conversation is awaited.
my $free = q{
	chatwebhook.queue q WHERE NOT EXISTS (
		SELECT FROM chatwebhook.queue b
		 WHERE q.ordered AND b.webhook_id = q.webhook_id AND b.conversation_id = q.conversation_id AND b.id < q.id)};

sub number
{
	my ($what) = @_;
	return sql("SELECT $what");
}

# Whatever is due is tried.
sub all_due_tried
{
	sql('SELECT count(chatwebhook._wake(id)) FROM chatwebhook.webhook');
	return wait_until("SELECT count(*) = 0 FROM $free AND q.next_attempt_at <= clock_timestamp()");
}

my $start = number('extract(epoch FROM clock_timestamp())');
my $ok = 1;
my $steps = 0;
my %more_at = (0 => 20, 1 => 10, 10 => 10, 50 => 10);
emit(delete $more_at{0});
$ok &&= all_due_tried();

# Set the clock to the next times at which something is due, until this one.
sub pass_time
{
	my ($until) = @_;
	while ($ok)
	{
		my $now = number('extract(epoch FROM clock_timestamp())') - $start;
		last if $now >= $until;
		# what failed together is due within a tenth of its wait
		my $wait = number("coalesce(extract(epoch FROM min(q.next_attempt_at) - clock_timestamp()), $outage) FROM $free");
		my $step = min($until - $now, $wait < 0 ? 0 : $wait * 1.05 + 1);
		jump(int($step + 1));
		$steps++;
		$ok &&= all_due_tried();
	}
	return;
}

foreach my $at (sort { $a <=> $b } keys %more_at)
{
	pass_time($at * $hour);
	emit($more_at{$at});
	$ok &&= all_due_tried();
}
pass_time($outage);
ok($ok, "72 hours pass in $steps steps, and what is due is tried");
cmp_ok(number('extract(epoch FROM clock_timestamp())') - $start, '>=', $outage, 'as the clock says');
is(sql(q{SELECT count(*) FROM chatwebhook.dead_letter WHERE webhook_name <> 'hasty'}), 0, 'there is no dead letter');
is(sql(q{SELECT count(*) FROM chatwebhook.dead_letter WHERE webhook_name = 'hasty'}), $n, 'but without the schedule, each is one');
is(sql(q{SELECT min(attempts) || ' to ' || max(attempts) FROM chatwebhook.delivery d JOIN chatwebhook.event e ON e.id = d.event_id
		WHERE d.webhook_name = 'patient' AND (e.data->>'n')::int <= 20}),
	'9 to 9', 'the first have been tried nine times');
is(sql('SELECT count(*) FROM chatwebhook.webhook WHERE NOT enabled'), 0, 'no webhook is disabled');

# What the receiver saw of the first: each wait is what is listed, or a little more.
my ($first) = map { $_->{headers}{'webhook-id'} } $receiver->log('patient');
my @waits = (5, 300, 1800, 2 * $hour, 5 * $hour, 10 * $hour, 14 * $hour, 20 * $hour);
my @times = split /\n/, sql(qq{SELECT extract(epoch FROM a.started_at) FROM chatwebhook.attempt a JOIN chatwebhook.delivery d ON d.id = a.delivery_id
	WHERE d.event_id = '$first' AND d.webhook_name = 'patient' ORDER BY a.attempt});
is(scalar(@times), 9, 'each attempt is kept');
foreach my $i (0 .. min($#waits, $#times - 1))
{
	my $wait = $times[ $i + 1 ] - $times[$i];
	cmp_ok($wait, '>=', $waits[$i] - 1, sprintf 'retry %d waits for %d s', $i + 1, $waits[$i]);
	cmp_ok($wait, '<=', $waits[$i] * 1.16 + 60, 'and not much longer');
}

# It is up again.
$receiver->set(up => ['*']);
pass_time($outage + 30 * $hour);
becomes_true(q{SELECT count(*) = 0 FROM chatwebhook.queue}, 'when it is up again, all is delivered');
is(sql(q{SELECT string_agg(webhook_name || ' ' || status || ' ' || n, ', ' ORDER BY webhook_name)
		FROM (SELECT webhook_name, status, count(*) AS n FROM chatwebhook.delivery GROUP BY 1, 2) d}),
	"batches delivered $n, hasty dead $n, ordered delivered $n, patient delivered $n", 'to all that have the schedule');

my %last;
my $out_of_order = 0;
foreach my $request ($receiver->log('ordered'))
{
	my ($conversation) = $request->{body} =~ /"conversationId":"(c\d)"/;
	my ($number) = $request->{body} =~ /"n":(\d+)/;
	$out_of_order++ if $number < ($last{$conversation} // 0);
	$last{$conversation} = $number;
}
is($out_of_order, 0, 'in order where it is ordered');
is(join(' ', map { $last{$_} } sort keys %last), join(' ', map { my $c = $_; max(grep { $_ % 3 == $c } 1 .. $n) } 0 .. 2),
	'to the last of each conversation');

$node->stop;
done_testing();
