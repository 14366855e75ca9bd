# The clock is set while deliveries are scheduled or held by debounce.
#
# Only a whole server whose clock is set can show that debounce, which waits for a
# while, goes on as if nothing had happened, and that what is scheduled, which waits
# for a time of day, is sent at that time by the new clock.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use Clock qw(jump with_clock);
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => Clock::problem() if Clock::problem();

my $hour = 3600;
my $receiver = start_receiver();
my $node;
with_clock(sub { $node = new_node('main', 'chatwebhook.poll_interval' => '500ms') });
sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.burst'), ('test.time')});
create_webhook($node, name => 'burst', events => ['test.burst'], debounce => '3 s');
create_webhook($node, name => 'time', events => ['test.time']);

my ($bursts, $times) = (0, 0);

sub burst
{
	sql(q{SELECT count(chatwebhook.emit('test.burst', NULL, 'c', '{}')) FROM generate_series(1, 3)});
	$bursts++;
	return;
}

sub schedule
{
	my ($ahead) = @_;
	sql(qq{SELECT chatwebhook.emit('test.time', NULL, 'c', '{}', deliver_at => clock_timestamp() + '$ahead'::interval)});
	return;
}

sub is_delivered
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($receiver->wait_for($bursts, 'burst'), "$name: what debounce holds is sent");
	is($receiver->count('burst'), $bursts, "$name: once");
	is($receiver->count('time'), $times, "$name: what is scheduled is not");
	return;
}

schedule('30 min');
burst();
jump(-$hour);
is_delivered('an hour back');
burst();
is_delivered('another one');
schedule('1 s');
ok($receiver->wait_for(++$times, 'time'), 'what is scheduled by the new clock comes');
is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE status = 'pending' AND next_attempt_at > clock_timestamp() + '85 min'::interval}), '1',
	'what was before stays where it is');

sql('ALTER SYSTEM SET chatwebhook.enabled = off');
$node->reload;
wait_until(q{SELECT current_setting('chatwebhook.enabled') = 'off'}) or die;
burst();
$node->stop;
jump(-$hour);
$node->append_conf('postgresql.auto.conf', 'chatwebhook.enabled = on');
with_clock(sub { $node->start });
is_delivered('a server started with an earlier clock');

jump(2 * $hour);
burst();
is_delivered('on again');
jump($hour);
ok($receiver->wait_for(++$times, 'time'), 'what is scheduled comes when the clock has passed its time');
ok(wait_idle($node), 'nothing is left');
is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE status NOT IN ('delivered', 'canceled')}), '0', 'in any way');

$node->stop;
done_testing();
