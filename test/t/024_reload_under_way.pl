# Requests under way when the settings change, and one that is sent again.
#
# A handle of libcurl's is used for one request after another.  Only one that is in
# use while chatwebhook.ca_file or chatwebhook.proxy changes can show that it does
# not keep the old one for the next; and only a connection that is lost in the
# middle of a request's time that what is sent again has the rest of it, no more.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;

foreach my $program ($ENV{NODE} // 'node', 'openssl')
{
	plan skip_all => "there is no $program" if system("command -v $program >/dev/null") != 0;
}
my $receiver = start_receiver();
my $trusted = start_receiver(tls => 1);
my $other = start_receiver(tls => 1);
my $proxy = start_receiver();
my $http2 = start_receiver(program => 'http2.js', tls => 1);
my $ca_files = PostgreSQL::Test::Utils::tempdir('trusted');
append_to_file("$ca_files/first.crt", slurp_file($_->ca_file)) foreach $trusted, $http2;
append_to_file("$ca_files/second.crt", slurp_file($_->ca_file)) foreach $other, $http2;

# The environment says that no host needs a proxy, as that of a service may.
$ENV{no_proxy} = '*';
my $node = new_node(
	'main',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.ca_file' => "$ca_files/first.crt");
delete $ENV{no_proxy};

sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.reload')});

sub webhook
{
	my ($name, $to, %columns) = @_;
	create_webhook($node, name => $name, chatbot_id => $name, receiver => $to, events => ['test.reload'],
		max_retries => 0, %columns);
	return;
}

sub emit
{
	my ($chatbot) = @_;
	sql("SELECT chatwebhook.emit('test.reload', '$chatbot', NULL, '{}')");
	return;
}

sub outcome
{
	my ($name) = @_;
	return sql("SELECT concat_ws(' ', status, last_error) FROM chatwebhook.delivery WHERE webhook_name = '$name' ORDER BY id DESC LIMIT 1");
}

# Emit an event for a webhook alone; what became of its delivery.
sub deliver
{
	my ($name) = @_;
	my $n = sql("SELECT count(*) FROM chatwebhook.attempt a JOIN chatwebhook.webhook w ON w.id = a.webhook_id WHERE w.name = '$name'");
	emit($name);
	wait_until("SELECT count(*) > $n FROM chatwebhook.attempt a JOIN chatwebhook.webhook w ON w.id = a.webhook_id WHERE w.name = '$name'")
	  or return 'nothing';
	return outcome($name);
}

# Change a setting, and have the worker see that.
sub change
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET chatwebhook.$name = '$value'");
	$node->reload;
	wait_until("SELECT current_setting('chatwebhook.$name') = '$value'") or die "chatwebhook.$name is not changed\n";
	# a backend has; the worker's next reload comes before its next request
	deliver('plain');
	return;
}

webhook('plain', $receiver);
webhook('hanging', $receiver, path => '/hang-until-told', timeout => '5 minutes', max_in_flight => 10);
webhook('trusted', $trusted);
webhook('other', $other);

# So many requests under way as there will be handles; they are answered when
# the settings have changed.
sub around
{
	my ($what) = @_;
	my $n = $receiver->count('hanging');
	$receiver->set(down => ['hanging']);
	emit('hanging') foreach 1, 2;
	ok($receiver->wait_for($n + 2, 'hanging'), 'requests are under way');
	$what->();
	$receiver->set(up => ['hanging']);
	becomes_true(q{SELECT count(*) = 0 FROM chatwebhook.queue}, 'they are answered');
	return;
}

subtest 'chatwebhook.ca_file' => sub {
	is(deliver('trusted'), 'delivered', 'its authority is trusted');
	like(deliver('other'), qr/^dead could not verify/, 'and the other is not');
	around(sub { change('ca_file', "$ca_files/second.crt") });
	like(deliver('trusted'), qr/^dead could not verify/, 'when another is trusted, it is not any more') foreach 1 .. 3;
	is(deliver('other'), 'delivered', 'but the other is') foreach 1 .. 3;
};

subtest 'chatwebhook.proxy' => sub {
	is(deliver('plain'), 'delivered', 'without a proxy it is sent to the receiver');
	my $n = $receiver->count('plain');
	my $url = $proxy->url('');
	around(sub { change('proxy', $url) });
	my $through = $proxy->count('plain');
	# the proxy knows no such path
	like(deliver('plain'), qr/^dead HTTP status 404/, 'with one it is not') foreach 1 .. 3;
	is($receiver->count('plain'), $n, 'nothing has come directly');
	is($proxy->count('plain'), $through + 3, 'all has come to the proxy');

	change('proxy', '');
	is(deliver('plain'), 'delivered', 'without it, it is sent to the receiver again') foreach 1 .. 3;
};

subtest 'a request that is sent again' => sub {
	my $lost_ms = 4000;
	my $timeout = 5;
	webhook('new', $http2);
	# the first one makes a connection of its own
	is(deliver('new'), 'delivered', 'a connection that requests share is there') foreach 1, 2;
	webhook('lost', $http2, path => "/lost/$lost_ms", timeout => "$timeout s");
	like(deliver('lost'), qr/^dead timed out/, 'it is lost, and the time is up later');
	is(scalar(() = $http2->log('lost')), 2, 'the request was sent again meanwhile');
	my $latency = sql(q{SELECT a.latency_ms FROM chatwebhook.attempt a JOIN chatwebhook.webhook w ON w.id = a.webhook_id
		WHERE w.name = 'lost' AND a.error IS NOT NULL});
	cmp_ok($latency, '>=', 1000 * $timeout - 50, 'it has had all of its time');
	cmp_ok($latency, '<', $lost_ms + 1000 * $timeout - 500, "and not all of it again: it took $latency ms");
};

is(sql('SELECT count(*) FROM chatwebhook.worker_status WHERE last_error IS NOT NULL'), 0, 'the worker has had no trouble of its own');
$node->stop;
done_testing();
