# The events webhook.exhausted and webhook.recovered.
#
# Only deliveries that really die, and receivers that come back, can show that each
# is announced once, to those that list the event and to nobody else; that such
# events lead to no more of them; and that thousands that die at once make few.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use List::Util qw(sum0);
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->utf8;
my $receiver = start_receiver();
my $node = new_node('main', 'chatwebhook.breaker_threshold' => 0);
sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.event')});

sub webhook
{
	my ($name, $chatbot, %columns) = @_;
	my ($id) = create_webhook($node, name => $name, chatbot_id => $chatbot, events => ['test.event'],
		max_retries => 1, backoff => '10 ms', max_backoff => '10 ms', %columns);
	return $id;
}

# A webhook that is told of others.
sub listener
{
	my ($name, $chatbot, %columns) = @_;
	return webhook($name, $chatbot, events => [ 'webhook.exhausted', 'webhook.recovered' ], max_retries => 0, %columns);
}

sub emit
{
	my ($chatbot, $n, $conversation) = @_;
	return sql(sprintf q{SELECT min(chatwebhook.emit('test.event', %s, %s, '{"secret": "t0p"}')::text) FROM generate_series(1, %d)},
		defined $chatbot ? "'$chatbot'" : 'NULL', defined $conversation ? "'$conversation'" : 'NULL', $n // 1);
}

# The bodies that a listener got.
sub got
{
	my ($name, $type) = @_;
	return grep { $_->{type} eq "webhook.$type" } map { $json->decode($_->{body}) } $receiver->log($name);
}

# An event of this type comes to a listener; then all that came before have.
sub comes
{
	my ($name, $type, $n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($receiver->wait_until(sub { got($name, $type) >= $n }), "$name gets webhook.$type");
}

my $shop = listener('shop listens', 'shop');
listener('rival listens', 'rival');
listener('operator listens', undef);
webhook('all', undef, events => ['*']);
webhook('shop all', 'shop', events => ['*']);

subtest 'webhook.exhausted' => sub {
	my $id = webhook('refuses', 'shop', path => '/status/503', url => $receiver->url('/status/503/-/refuses?token=hush-hush-hush-hush'));
	my $event = emit('shop');
	comes('shop listens', 'exhausted', 1);
	comes('operator listens', 'exhausted', 1);
	my ($body) = got('shop listens', 'exhausted');
	my $delivery = sql(q{SELECT id FROM chatwebhook.dead_letter WHERE webhook_name = 'refuses'});
	is($body->{chatbotId}, 'shop', 'it is of the chatbot');
	is_deeply($body->{data},
		{ webhookId => $id, webhookName => 'refuses', deliveryId => $delivery, eventId => $event, eventType => 'test.event',
			attempts => 2, lastStatusCode => 503, lastError => 'HTTP status 503', others => 0 },
		'and says what has died, and why');
	unlike($json->encode($body), qr/hush|t0p|whsec_/, 'without anything secret');
	sql("DELETE FROM chatwebhook.webhook WHERE id = '$id'");

	# one of every chatbot is the operator's
	webhook('operator refuses', undef, path => '/status/400');
	emit('shop');
	comes('operator listens', 'exhausted', 2);
	is((got('operator listens', 'exhausted'))[1]{chatbotId}, undef, 'one of a webhook of every chatbot is of none');
	is((got('operator listens', 'exhausted'))[1]{data}{attempts}, 1, 'after one attempt');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'operator refuses'});

	# with an answer in quotes
	webhook('slack', 'rival', path => '/scripted', connector => 'slack', settings => {});
	$receiver->set(replies => { slack => [ { status => 200, body => 'Dear Zoe' } ] });
	sql(q{UPDATE chatwebhook.webhook SET max_retries = 0 WHERE name = 'slack'});
	emit('rival', 1, 'c1');
	comes('rival listens', 'exhausted', 1);
	like((got('rival listens', 'exhausted'))[0]{data}{lastError}, qr/Dear Zoe/, 'an unexpected reply is quoted');
	ok(wait_idle($node), 'all is done');
	is(scalar(got('shop listens', 'exhausted')), 1, 'each chatbot gets its own only');
	is(scalar(got('rival listens', 'exhausted')), 1, 'as does the other one');
	comes('operator listens', 'exhausted', 3);

	is(sql(q{SELECT count(*) FROM chatwebhook.event WHERE type = 'webhook.exhausted' AND data::text ~ 'Dear Zoe'}), 1, 'the event is kept');
	sql(q{SELECT chatwebhook.erase_conversation('rival', 'c1')});
	is(sql(q{SELECT count(*) FROM chatwebhook.event WHERE data::text ~ 'Dear Zoe'}), 0, 'until the conversation is erased');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'slack'});
};

subtest 'webhook.recovered' => sub {
	my $id = webhook('down', 'shop', path => '/down-until-told', max_retries => 100);
	emit('shop');
	becomes_true(q{SELECT state = 'failing' FROM chatwebhook.webhook_health WHERE name = 'down'}, 'it is failing');
	my $since = sql("SELECT to_char(failing_since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') FROM chatwebhook.health WHERE webhook_id = '$id'");
	is(scalar(got('shop listens', 'recovered')), 0, 'which is not announced');
	$receiver->set(up => ['down']);
	comes('shop listens', 'recovered', 1);
	comes('operator listens', 'recovered', 1);
	my ($body) = got('shop listens', 'recovered');
	cmp_ok($body->{data}{failures}, '>=', 5, 'it says how often it failed');
	delete $body->{data}{failures};
	is_deeply($body->{data}, { webhookId => $id, webhookName => 'down', failingSince => $since, lastError => 'HTTP status 503' },
		'since when, and why');

	# a failure now and then is none to recover from
	webhook('flaky', 'shop', path => '/flaky/2', max_retries => 5);
	foreach (1 .. 3)
	{
		emit('shop');
		ok(wait_idle($node), 'all is done');
	}
	$receiver->set(down => ['down']);
	emit('shop');
	becomes_true(q{SELECT state = 'failing' FROM chatwebhook.webhook_health WHERE name = 'down'}, 'it is failing again');
	$receiver->set(up => ['down']);
	comes('shop listens', 'recovered', 2);
	is_deeply([ map { $_->{data}{webhookName} } got('shop listens', 'recovered') ], [ 'down', 'down' ], 'which is announced once each time');
	is(scalar(got('rival listens', 'recovered')), 0, 'to its own chatbot');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name IN ('down', 'flaky')});
};

subtest 'no event about such an event' => sub {
	my $before = sql(q{SELECT count(*) FROM chatwebhook.event WHERE type LIKE 'webhook.%'});
	# two that would tell each other for ever
	listener('ping', 'loop', path => '/status/400');
	listener('pong', 'loop', path => '/status/400');
	webhook('dies', 'loop', path => '/status/400');
	emit('loop');
	becomes_true(q{SELECT count(*) = 2 FROM chatwebhook.dead_letter WHERE webhook_name IN ('ping', 'pong')}, 'both get one about the first');
	# what is announced later comes after anything that they could have caused
	emit('shop');
	webhook('marker', 'shop', path => '/status/400');
	emit('shop');
	ok($receiver->wait_until(sub { grep { $_->{data}{webhookName} eq 'marker' } got('shop listens', 'exhausted') }), 'others are announced');
	ok(wait_idle($node), 'all is done');
	is(sql(q{SELECT count(*) FROM chatwebhook.event WHERE chatbot_id = 'loop' AND type LIKE 'webhook.%'}), 1, 'there is one event');
	# one that is failing itself is told nothing
	emit('loop', 10);
	becomes_true(q{SELECT pending = 0 FROM chatwebhook.webhook_health WHERE name = 'dies'}, 'more of them die');
	ok(wait_idle($node), 'all is done');
	is(sql(q{SELECT count(*) FROM chatwebhook.dead_letter WHERE webhook_name IN ('ping', 'pong') AND event_type NOT LIKE 'webhook.%'}), 0,
		'those that listen died of nothing else');
	sql(q{DELETE FROM chatwebhook.webhook WHERE chatbot_id = 'loop' OR name = 'marker'});
};

subtest 'thousands that die at once' => sub {
	webhook('dies', 'many', path => '/status/400', max_in_flight => 64);
	listener('many listens', 'many');
	emit('many', 3000);
	becomes_true(q{SELECT dead = 3000 FROM chatwebhook.webhook_health WHERE name = 'dies'}, 'all die');
	ok($receiver->wait_until(sub { sum0(map { 1 + $_->{data}{others} } got('many listens', 'exhausted')) == 3000 }), 'all are announced')
	  or diag(sum0(map { 1 + $_->{data}{others} } got('many listens', 'exhausted')));
	my $events = got('many listens', 'exhausted');
	note("$events events");
	cmp_ok($events, '<=', 600, 'by few events');
	my %named;
	$named{ $_->{data}{deliveryId} }++ foreach got('many listens', 'exhausted');
	is(scalar(keys %named), $events, 'which name each delivery once');
};

subtest 'nobody listens' => sub {
	my $before = sql(q{SELECT count(*) FROM chatwebhook.event WHERE type LIKE 'webhook.%'});
	sql(q{DELETE FROM chatwebhook.webhook WHERE 'webhook.exhausted' = ANY (events)});
	emit('many', 10);
	becomes_true(q{SELECT dead = 3010 FROM chatwebhook.webhook_health WHERE name = 'dies'}, 'more die');
	ok(wait_idle($node), 'all is done');
	is(sql(q{SELECT count(*) FROM chatwebhook.event WHERE type LIKE 'webhook.%'}), $before, 'there is no event');
	is(scalar(grep { $_->{body} =~ /"type":"webhook\./ } map { $receiver->log($_) } 'all', 'shop all'), 0,
		'and * gets none');
};

$node->stop;
done_testing();
