# The worker holds no more than 32 MB of requests' bodies at a time, whatever
# their sizes were before, and one customer leaves some of that to the others.
#
# Only a worker whose requests hang, and that has a backlog of large events behind
# them, can show how much it takes into its memory.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Chatwebhook;
use Test::More;

my $size = 900_000;
my $bound = 32 * 1024 * 1024;
# it need not verify what is large
my $receiver = start_receiver(args => ['--brief']);
my $node = new_node('main');

sql("INSERT INTO chatwebhook.event_type (name) VALUES ('t.hog'), ('t.rival')");
my ($hog) = create_webhook($node, name => 'hog', path => '/hang-until-told', chatbot_id => 'hog', events => ['t.hog'],
	max_in_flight => 1024, timeout => '5 minutes');
create_webhook($node, name => 'rival', chatbot_id => 'rival', events => ['t.rival']);
$receiver->set(up => ['hog']);
sql("SELECT count(chatwebhook.emit('t.hog', 'hog', NULL, '{}')) FROM generate_series(1, 400)");
ok(wait_idle($node), 'many small events have been delivered');

$receiver->set(down => ['hog']);
sql("SELECT count(chatwebhook.emit('t.hog', 'hog', NULL, jsonb_build_object('x', repeat('x', $size)))) FROM generate_series(1, 100)");
my $least = int(0.8 * $bound / $size);
becomes_true("SELECT sum(in_flight) >= $least FROM chatwebhook.worker_status", 'large ones are under way');
sql("SELECT count(chatwebhook.emit('t.rival', 'rival', NULL, jsonb_build_object('x', repeat('x', $size)))) FROM generate_series(1, 20)");
becomes_true("SELECT count(*) = 20 FROM chatwebhook.history WHERE webhook_name = 'rival'", 'large ones of another customer are delivered');
my $claimed = sql('SELECT sum(in_flight) FROM chatwebhook._all_in_flight()');
cmp_ok($claimed, '>=', $least, "the worker holds $claimed of them");
cmp_ok($claimed * $size, '<=', $bound, 'which is within the bound');

$receiver->set(up => ['hog']);
ok(wait_idle($node), 'all are delivered when the receiver answers');
is($receiver->count('hog'), 500, 'each of them once');

# what is larger than the bound is sent by itself
sql("ALTER SYSTEM SET chatwebhook.max_payload_size = '60MB'");
$node->reload;
script("SELECT count(chatwebhook.emit('t.rival', 'rival', NULL, jsonb_build_object('x', repeat('x', 40000000)))) FROM generate_series(1, 2)");
ok(wait_idle($node), 'what is larger than the bound is delivered');
is(sql("SELECT count(*) FROM chatwebhook.history WHERE webhook_name = 'rival' AND status = 'delivered'"), 22, 'as well');

$node->stop;
done_testing();
