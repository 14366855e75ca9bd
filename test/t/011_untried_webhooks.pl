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

$node->stop('immediate');
done_testing();
