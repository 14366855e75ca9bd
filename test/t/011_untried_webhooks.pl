# Webhooks that have never answered, and hang, leave room for one that has.
#
# Only more of them than there are slots, all of which hang at the same time, can
# show this: as many as half of the slots are theirs, and so they are when another
# worker takes over, which has not seen any of them answer either.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Chatwebhook;
use Test::More;

my $slots = 16;
my $receiver = start_receiver();
my $node = new_node('main', 'chatwebhook.max_in_flight' => $slots);

sql("INSERT INTO chatwebhook.event_type (name) VALUES ('it.hangs'), ('it.works')");
create_webhook($node, name => 'works', chatbot_id => 'works', events => ['it.works']);
sql("SELECT chatwebhook.emit('it.works', 'works', NULL, '{}')");
wait_idle($node);
is(sql("SELECT successes FROM chatwebhook.webhook_health WHERE name = 'works'"), 1, 'one webhook is known to work');

# more than there are slots, all new at once
my $url = $receiver->url('/hang/-/new');
sql(  "INSERT INTO chatwebhook.webhook (name, url, events, timeout) "
    . "SELECT 'hangs ' || i, '$url', '{it.hangs}', '5 minutes' FROM generate_series(1, 4 * $slots) i");
sql("SELECT count(chatwebhook.emit('it.hangs', 'bot', NULL, '{}')) FROM generate_series(1, 5)");
my $held = $slots / 2;
becomes_true("SELECT sum(in_flight) = $held FROM chatwebhook.worker_status",
    'the new ones take half of the slots');

sql("SELECT count(chatwebhook.emit('it.works', 'works', NULL, '{}')) FROM generate_series(1, 100)");
becomes_true("SELECT count(*) = 101 FROM chatwebhook.history WHERE webhook_name = 'works' AND status = 'delivered'",
    'the other has the rest');
is(sql("SELECT sum(in_flight) FROM chatwebhook.worker_status"), $held, 'while they still hang');

# nor does a worker that starts anew take them for better
my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
sql("SELECT pg_terminate_backend($pid)");
becomes_true("SELECT in_flight = $held AND pid <> $pid FROM chatwebhook.worker_status",
    'as with the next worker');

#
# A webhook that used to answer and now hangs leaves something for others, and so
# do all webhooks of a customer together.
#

# Emit events of a type, and wait until one webhook has had them all.
my %given;

sub passes
{
	my ($name, $type, $chatbot, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$given{$name} += 10;
	sql("SELECT count(chatwebhook.emit('$type', '$chatbot', NULL, '{}')) FROM generate_series(1, 10)");
	becomes_true("SELECT count(*) = $given{$name} FROM chatwebhook.history WHERE webhook_name = '$name' AND status = 'delivered'", $what);
}

sql("DELETE FROM chatwebhook.webhook");
$node->restart;
sql("INSERT INTO chatwebhook.event_type (name) VALUES ('it.floods'), ('it.is_new')");
create_webhook($node, name => 'hog', path => '/hang-until-told', chatbot_id => 'hog', events => ['it.floods'],
	max_in_flight => 1024, timeout => '5 minutes');
$receiver->set(up => ['hog']);
sql("SELECT count(chatwebhook.emit('it.floods', 'hog', NULL, '{}')) FROM generate_series(1, 100)");
becomes_true("SELECT count(*) = 100 FROM chatwebhook.history WHERE webhook_name = 'hog'", 'a webhook answers');
$receiver->set(down => ['hog']);
sql("SELECT count(chatwebhook.emit('it.floods', 'hog', NULL, '{}')) FROM generate_series(1, 1000)");
$held = $slots * 7 / 8;
becomes_true("SELECT sum(in_flight) = $held FROM chatwebhook.worker_status", 'and then hangs in most slots');
create_webhook($node, name => 'rival', chatbot_id => 'rival', events => ['it.works']);
passes('rival', 'it.works', 'rival', 'another passes by it');
is(sql("SELECT sum(in_flight) FROM chatwebhook.worker_status"), $held, 'while it hangs');
sql("INSERT INTO chatwebhook.webhook (name, chatbot_id, url, events, timeout) "
	. "SELECT 'hogs ' || i, 'hog', '$url', '{it.hangs}', '5 minutes' FROM generate_series(1, 300) i");
sql("SELECT count(chatwebhook.emit('it.hangs', 'hog', NULL, '{}')) FROM generate_series(1, 5)");
passes('rival', 'it.works', 'rival', 'also while the same customer has 300 more that hang');
create_webhook($node, name => 'new', chatbot_id => 'rival', events => ['it.is_new']);
passes('new', 'it.is_new', 'rival', 'and so does a new one');
cmp_ok(sql("SELECT sum(in_flight) FROM chatwebhook.worker_status"), '>=', $held, 'while they all hang');

# the same of those that have never answered
sql("DELETE FROM chatwebhook.webhook");
$node->restart;
sql("INSERT INTO chatwebhook.webhook (name, chatbot_id, url, events, timeout) "
	. "SELECT 'first ' || i, 'first', '$url', '{it.hangs}', '5 minutes' FROM generate_series(1, 300) i");
sql("SELECT count(chatwebhook.emit('it.hangs', 'first', NULL, '{}')) FROM generate_series(1, 5)");
sql("INSERT INTO chatwebhook.event_type (name) VALUES ('it.is_newer')");
create_webhook($node, name => 'newer', chatbot_id => 'rival', events => ['it.is_newer']);
passes('newer', 'it.is_newer', 'rival', 'a new one passes by 300 that have never answered');

$node->stop('immediate');
done_testing();
