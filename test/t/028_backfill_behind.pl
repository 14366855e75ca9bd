# What is emitted while a backfill waits does not wait for it.
#
# Only a receiver that takes its time can show that events to the same webhook
# overtake thousands of older ones, and that these are delivered all the same:
# after a crash, after failures, and in order where that is asked for.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Chatwebhook;
use Test::More;

my $rows = 3000;
my $receiver = start_receiver();
my $node = new_node('main');

script(qq{
	CREATE TABLE lead (id int PRIMARY KEY, chat text);
	INSERT INTO lead SELECT g, 'c' || g % 100 FROM generate_series(1, $rows) AS g;
	INSERT INTO chatwebhook.event_type (name) VALUES ('lead.old'), ('lead.new');
});
my ($hook) = create_webhook($node, name => 'slow', path => '/delay-ms/20', max_in_flight => 4, events => '{lead.new}');

# Emit an event for each row of the table; returns how many there are.
sub backfill
{
	return sql(qq{SELECT chatwebhook.backfill('$hook', 'lead', 'lead.old', '{"conversationId": "chat", "id": "id"}')});
}

# Emit new events, and wait until they have been delivered.
sub new_events_arrive
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $done = sql(q{SELECT count(*) + 10 FROM chatwebhook.history WHERE status = 'delivered'
		AND event_id IN (SELECT id FROM chatwebhook.event WHERE type = 'lead.new')});

	sql(q{SELECT chatwebhook.emit('lead.new', NULL, 'c' || g, '{}') FROM generate_series(1, 10) AS g});
	becomes_true(qq{SELECT count(*) = $done FROM chatwebhook.delivery WHERE event_type = 'lead.new' AND status = 'delivered'}, $name);
	cmp_ok(sql(q{SELECT count(*) FROM chatwebhook.queue}), '>', $rows / 2, 'while most of the old ones wait');
	return;
}

is(backfill(), $rows, 'rows are emitted');
is(sql(q{SELECT DISTINCT next_attempt_at FROM chatwebhook.delivery WHERE status = 'pending'}), 'infinity',
	'to be delivered when nothing else is due');
$receiver->wait_for(20, 'slow');
new_events_arrive('events that are emitted meanwhile are delivered');

# A new worker finds both, too.
$node->stop('immediate');
$node->start;
new_events_arrive('after a crash, too');

sql("UPDATE chatwebhook.webhook SET url = '" . $receiver->url('/ok') . "', max_in_flight = 32 WHERE id = '$hook'");
ok(wait_idle($node), 'all are delivered in the end');
is(sql(q{SELECT status, count(DISTINCT event_id) FROM chatwebhook.delivery WHERE event_type = 'lead.old' GROUP BY 1}),
	"delivered|$rows", 'each of the old ones');

# An event that waits for its retry does not hold up the old ones.
script(q{INSERT INTO chatwebhook.event_type (name) VALUES ('lead.retried')});
($hook) = create_webhook($node, name => 'fails', path => '/fail/1/then/ok', backoff => '1 hour', max_backoff => '1 hour', events => '{lead.retried}');
sql(q{SELECT chatwebhook.emit('lead.retried', NULL, 'c1', '{}')});
becomes_true(q{SELECT attempts = 1 FROM chatwebhook.queue}, 'one has failed');
is(backfill(), $rows, 'a backfill behind it');
becomes_true(q{SELECT count(*) = 1 FROM chatwebhook.queue}, 'is delivered meanwhile');
sql(q{SELECT chatwebhook.cancel(id) FROM chatwebhook.queue});

# In order, if that is asked for: within a conversation, as they were emitted.
my ($ordered) = create_webhook($node, name => 'ordered', path => '/ok', ordered => 'true', events => '{lead.new}');
$hook = $ordered;
is(backfill(), $rows, 'the same to an ordered webhook');
sql(q{SELECT chatwebhook.emit('lead.new', NULL, 'c' || g, '{}') FROM generate_series(0, 99) AS g});
ok(wait_idle($node), 'all are delivered');
my %last;
my $disorder = 0;
foreach my $request ($receiver->log('ordered'))
{
	my ($conversation) = $request->{body} =~ /"conversationId":"(c\d+)"/;
	my $id = $request->{headers}{'webhook-id'};
	$disorder++ if ($last{$conversation} // '') gt $id;
	$last{$conversation} = $id;
}
is(scalar keys %last, 100, 'of all conversations');
is($disorder, 0, 'in order');

done_testing();
