# Connectors that are signed, or that take batches.
#
# Only a receiver that verifies can show that what a connector has made is signed
# over the bytes that arrive, with everything that receivers of the connector
# webhook are used to, through retries, rotations and batches; and only one
# elsewhere, that no signature gets there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $elsewhere = start_receiver();
my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.log_attempts' => 'all');
my $json = JSON::PP->new;
my @signature = qw(webhook-id webhook-signature webhook-timestamp x-webhook-attempt x-webhook-delivery
  x-webhook-event x-webhook-signature);

script(q{
	-- what is sent is in the events, one or many
	CREATE FUNCTION shaped(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
		LANGUAGE plpgsql STABLE AS $$
	BEGIN
		IF event @? 'lax $[*].data.fails' THEN
			RAISE 'it was told to fail';
		ELSIF event @? 'lax $[*].data.nothing' THEN
			RETURN NULL;
		END IF;
		RETURN ROW('PUT', webhook->>'url' || '?shape=1', '{"Content-Type": "application/vnd.example+json", "X-Shape": "1"}',
			jsonb_build_object('10', NULL, 'events', jsonb_path_query_array(event, 'lax $[*]'),
				'memory', webhook->'memory', 'replies', replies), webhook->'settings'->'last' IS NULL)::chatwebhook.request;
	END $$;
	-- a request without a body, one that goes elsewhere, and one with a body
	CREATE FUNCTION steps(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
		LANGUAGE plpgsql STABLE AS $$
	BEGIN
		IF jsonb_typeof(event) = 'array' THEN
			RETURN ROW(NULL, NULL, NULL, jsonb_build_object('batch', event, 'replies', replies), false)::chatwebhook.request;
		END IF;
		RETURN CASE jsonb_array_length(replies)
			WHEN 0 THEN ROW('GET', NULL, NULL, NULL, false)::chatwebhook.request
			WHEN 1 THEN ROW('POST', webhook #>> '{settings,elsewhere}', NULL, '{"step": 2}', false)::chatwebhook.request
			ELSE ROW('POST', NULL, NULL, jsonb_build_object('step', 3, 'memory', webhook->'memory'), true)::chatwebhook.request
		END;
	END $$;
	INSERT INTO chatwebhook.connector (name, function, signed, batches, replies) VALUES
		('shaped', 'public.shaped', true, true, '[]'),
		('unsigned', 'public.shaped', false, true, '[]'),
		('steps', 'public.steps', true, true, '[]'),
		('judging', 'public.shaped', true, true, '[{"status": 200, "path": "exists($.events)", "means": "success"}]'),
		('learning', 'public.steps', true, false,
			'[{"status": 200, "step": 3, "path": "$.step == 3", "means": "success", "remember": {"last": "$.step"}}]');
	INSERT INTO chatwebhook.event_type (name) VALUES ('test.shape');
});

sub webhook
{
	my ($name, $connector, %columns) = @_;
	return create_webhook($node, name => $name, chatbot_id => $name, connector => $connector,
		events => ['test.shape'], backoff => '50 ms', max_backoff => '50 ms', %columns);
}

sub emit
{
	my ($name, $n, $data) = @_;
	$data //= q{jsonb_build_object('n', i)};
	return sql(qq{SELECT max(chatwebhook.emit('test.shape', '$name', 'c' || i, $data)::text) FROM generate_series(1, $n) i});
}

sub headers_of
{
	my ($request) = @_;
	return [ grep { /^(x-)?webhook-/ } sort keys %{ $request->{headers} } ];
}

# The requests of these that are not signed as they should be.
sub unverified
{
	return grep { !$_->{verified}{standard} || !$_->{verified}{signature} } @_;
}

# What verify() says of one.
sub verified
{
	my ($request, $secret) = @_;
	my %headers = map { $_ => $request->{headers}{$_} } grep { /^webhook-/ } keys %{ $request->{headers} };
	return sql('SELECT chatwebhook.verify(' . join(', ', literal(\%headers) . '::jsonb', literal($request->{body}), literal($secret)) . ')');
}

sub outcome
{
	my ($name) = @_;
	return sql(qq{SELECT string_agg(DISTINCT concat_ws(' ', status, attempts, last_error), '; ')
		FROM chatwebhook.delivery WHERE webhook_name = '$name'});
}

subtest 'a body of another shape' => sub {
	my ($id, $secret) = webhook('one', 'shaped', headers => { 'X-Shape' => '2', 'X-More' => 'a' });
	my $event = emit('one', 1, q{'{"text": "Zo\u00eb \ud83d\ude00", "1": 1e2}'});
	ok(wait_idle($node), 'the worker is done');
	my ($request) = $receiver->log('one');
	is($request->{method}, 'PUT', 'is what the connector made');
	is_deeply(headers_of($request), \@signature, 'with all headers of a signed request');
	is_deeply(
		[ map { $request->{headers}{$_} } qw(webhook-id x-webhook-event x-webhook-attempt x-webhook-delivery content-type x-shape x-more) ],
		[ $event, 'test.shape', '1', sql('SELECT max(id) FROM chatwebhook.delivery'), 'application/vnd.example+json', '2', 'a' ],
		'which say what it is of, and those of the connector and the webhook');
	is_deeply([ unverified($request) ], [], 'the signatures hold over the bytes that came');
	like($request->{body}, qr/^\{"10":null,"events":\[\{"id":"$event",.*"data":\{"1":100,"text":"Zo\x{eb} \x{1F600}"\}/,
		'which are as JSON.stringify() would write them');
	is(verified($request, $secret), 't', 'verify() agrees');

	webhook('none', 'unsigned');
	emit('none', 1);
	ok(wait_idle($node), 'the worker is done');
	($request) = $receiver->log('none');
	is_deeply(headers_of($request), [], 'a connector that is not signed has none of these');

	like(sql(qq{SELECT success, status_code FROM chatwebhook.test_webhook('$id')}), qr/^t\|200/, 'test_webhook()');
	is_deeply([ unverified(($receiver->log('one'))[-1]) ], [], 'signs likewise');
	is_deeply(
		[ sort grep { /webhook-/i } @{ $json->decode(sql(qq{SELECT jsonb_agg(k) FROM chatwebhook.preview('$id',
			'{"type": "test.shape"}') p, jsonb_object_keys(p.headers) k})) } ],
		[ sort { $a cmp $b } qw(X-Webhook-Attempt X-Webhook-Delivery X-Webhook-Event X-Webhook-Signature webhook-id webhook-signature webhook-timestamp) ],
		'and preview() shows so');
};

subtest 'a member that the auth puts into the body' => sub {
	webhook('member', 'shaped', auth => { type => 'body', name => 'key', value => '{{key}}' }, credentials => { key => 'k"1\\' });
	emit('member', 1);
	ok(wait_idle($node), 'the worker is done');
	my ($request) = $receiver->log('member');
	is($json->decode($request->{body})->{key}, 'k"1\\', 'is there');
	is_deeply([ unverified($request) ], [], 'and signed');
};

subtest 'several requests' => sub {
	my ($id, $secret) = webhook('steps', 'steps', settings => { elsewhere => $elsewhere->url('/ok/-/steps') });
	$elsewhere->set_secret('steps', $secret);
	my $event = emit('steps', 1);
	ok(wait_idle($node), 'the worker is done');
	my @own = $receiver->log('steps');
	is_deeply([ map { "$_->{method} $_->{body}" } @own ], [ 'GET ', 'POST {"step":3,"memory":{}}' ], 'two to the webhook\'s URL');
	is_deeply([ unverified(@own) ], [], 'are signed, without a body, too');
	is_deeply([ map { $_->{headers}{'webhook-id'} } @own ], [ $event, $event ], 'under the id of the event');
	my @other = $elsewhere->log('steps');
	is(scalar(@other), 1, 'one goes elsewhere');
	is_deeply(headers_of($other[0]), [], 'and shows nothing that is made with the secret');
	is(outcome('steps'), 'delivered 1', 'it was one attempt');
};

subtest 'rules, memory and order' => sub {
	webhook('learning', 'learning', path => '/echo', settings => { elsewhere => $elsewhere->url('/ok/-/learning') });
	$receiver->set(replies => {});
	emit('learning', 1);
	ok(wait_idle($node), 'the worker is done');
	emit('learning', 1);
	ok(wait_idle($node), 'the worker is done');
	my @last = grep { $_->{method} eq 'POST' } $receiver->log('learning');
	is_deeply([ map { $json->decode($_->{body})->{memory} } @last ], [ {}, { last => 3 } ], 'what a reply taught comes with the next event');
	is_deeply([ unverified($receiver->log('learning')) ], [], 'all is signed');
	is(sql(q{SELECT ordered FROM chatwebhook.webhook WHERE name = 'learning'}), 't', 'the webhook is ordered');
};

subtest 'a batch whose reply a rule judges' => sub {
	webhook('judged', 'judging', path => '/echo', batch_size => 10, batch_window => '300 ms', max_retries => 0);
	emit('judged', 5);
	ok(wait_idle($node), 'the worker is done');
	is($receiver->count('judged'), 1, 'one request');
	is(sql(q{SELECT status, attempts, count(*) FROM chatwebhook.delivery WHERE webhook_name = 'judged' GROUP BY 1, 2}),
		'delivered|1|5', 'all of the batch are delivered by it');
};

subtest 'test_webhook() takes ten seconds at most' => sub {
	# each of a connector's requests may take as long as the webhook's timeout
	my ($id) = webhook('slow', 'steps', path => '/delay-ms/4000', timeout => '1 minute', settings => { elsewhere => $elsewhere->url('/delay-ms/4000/-/slow') });
	my ($hang) = webhook('hang', 'shaped', path => '/hang', timeout => '1 minute');
	foreach my $case ([ $id, 'several' ], [ $hang, 'one' ])
	{
		my $start = time;
		is(sql(qq{SELECT success FROM chatwebhook.test_webhook('$case->[0]')}), 'f', "$case->[1]: it gives up");
		cmp_ok(time - $start, '<', scaled(20), 'not after a minute');
	}
};

subtest 'a retry, and a rotation' => sub {
	my ($id, $secret) = webhook('flaky', 'shaped', path => '/flaky/1');
	emit('flaky', 1);
	ok(wait_idle($node), 'the worker is done');
	my @tries = $receiver->log('flaky');
	is_deeply([ map { $_->{headers}{'x-webhook-attempt'} } @tries ], [ 1, 2 ], 'the second attempt');
	is($tries[0]{$_}, $tries[1]{$_}, "has the same $_") foreach 'body';
	is($tries[0]{headers}{'webhook-id'}, $tries[1]{headers}{'webhook-id'}, 'and the same id');

	my $new = sql(qq{SELECT chatwebhook.rotate_secret('$id')});
	$receiver->set_secret('flaky', $new, $secret);
	emit('flaky', 1);
	ok(wait_idle($node), 'the worker is done');
	my $request = ($receiver->log('flaky'))[-1];
	is(scalar(split / /, $request->{headers}{'webhook-signature'}), 2, 'while two secrets overlap, there are two signatures');
	is_deeply([ unverified($request) ], [], 'which hold');

	# a receiver that refuses the first gets the same again, the other one first
	($id, $secret) = webhook('rotated', 'shaped', path => '/scripted');
	$new = sql(qq{SELECT chatwebhook.rotate_secret('$id')});
	$receiver->set_secret('rotated', [ $new, $secret ]);
	$receiver->set(replies => { rotated => [ { status => 401 }, { status => 200 } ] });
	emit('rotated', 1);
	ok(wait_idle($node), 'the worker is done');
	my @both = $receiver->log('rotated');
	is(scalar(@both), 2, 'a refused signature is followed by another at once');
	is($both[0]{body}, $both[1]{body}, 'of the same body');
	isnt($both[0]{headers}{'x-webhook-signature'}, $both[1]{headers}{'x-webhook-signature'}, 'made with the other secret');
	is_deeply([ unverified(@both) ], [], 'all hold');
	is(sql(qq{SELECT attempts, status FROM chatwebhook.delivery WHERE webhook_id = '$id'}), '1|delivered', 'in one attempt');

	($id) = webhook('public', 'shaped', signing => 'v1a');
	emit('public', 1);
	ok(wait_idle($node), 'the worker is done');
	($request) = $receiver->log('public');
	is(verified($request, sql(qq{SELECT chatwebhook.public_key('$id')})), 't', 'a private key signs as well');
};

subtest 'batches' => sub {
	# a bodiless "last" would have it called again
	my ($id) = webhook('batch', 'shaped', path => '/flaky/1', batch_size => 10, batch_window => '1 second',
		settings => { last => JSON::PP::false });
	emit('batch', 25);
	ok(wait_idle($node), 'the worker is done');
	my @requests = $receiver->log('batch');
	my (%count, %of_id);
	foreach my $request (@requests)
	{
		my @n = map { $_->{data}{n} } @{ $json->decode($request->{body})->{events} };
		$count{$_}++ foreach @n;
		push @{ $of_id{ $request->{headers}{'webhook-id'} } }, $request->{body};
	}
	is_deeply(\%count, { map { $_ => 2 } 1 .. 25 }, 'each event has come twice, as the receiver failed once');
	cmp_ok(scalar @requests, '<=', 8, 'in few requests: ' . @requests);
	is(scalar(grep { @$_ != 2 || $_->[0] ne $_->[1] } values %of_id), 0, 'a batch that is tried again has its id and its bytes');
	is_deeply([ unverified(@requests) ], [], 'all are signed');
	is(scalar(grep { $_->{headers}{'x-webhook-event'} ne 'batch' } @requests), 0, 'as batches');
	is(outcome('batch'), 'delivered 2', 'and one request delivers a batch');
	like(sql(qq{SELECT success FROM chatwebhook.test_webhook('$id')}), qr/^[tf]/, 'test_webhook()');
	is(ref $json->decode(($receiver->log('batch'))[-1]{body})->{events}, 'ARRAY', 'sends a batch, too');

	webhook('unsigned batch', 'unsigned', batch_size => 10);
	emit('unsigned batch', 10);
	ok(wait_idle($node), 'the worker is done');
	is_deeply(headers_of(($receiver->log('unsigned batch'))[0]), [], 'a connector can take batches and not be signed');

	webhook('nothing', 'shaped', batch_size => 10, batch_window => '1 second');
	emit('nothing', 10, q{'{"nothing": 1}'});
	ok(wait_idle($node), 'the worker is done');
	is(outcome('nothing'), 'delivered 0', 'where there is nothing to send for a batch, none of it counts as an attempt');
	is(sql(q{SELECT string_agg(DISTINCT note, ';') || count(*) FROM chatwebhook.attempt a
		JOIN chatwebhook.webhook w ON w.id = a.webhook_id WHERE w.name = 'nothing'}), 'nothing to send10', 'as each says');

	webhook('fails', 'shaped', batch_size => 10, batch_window => '1 second', max_retries => 0);
	emit('fails', 10, q{CASE i WHEN 5 THEN '{"fails": 1}' ELSE '{}' END::jsonb});
	ok(wait_idle($node), 'the worker is done');
	like(outcome('fails'), qr/^dead 1 connector "shaped": it was told to fail$/, 'an error of the connector is that of its batch');
};

subtest 'batches and tokens' => sub {
	$elsewhere->set(replies => { tokens => [ { body => { access_token => 'abc', expires_in => 3600 } } ] });
	webhook('oauth', 'shaped', batch_size => 5, batch_window => '1 second',
		auth => { type => 'oauth2', token_url => $elsewhere->url('/scripted/-/tokens'), client_id => 'me' },
		credentials => { client_secret => 'x' });
	emit('oauth', 20);
	ok(wait_idle($node), 'the worker is done');
	my %count;
	$count{ $_->{data}{n} }++ foreach map { @{ $json->decode($_->{body})->{events} } } $receiver->log('oauth');
	is_deeply(\%count, { map { $_ => 1 } 1 .. 20 }, 'those that waited for a token come once');
	is(scalar(grep { ($_->{headers}{authorization} // '') ne 'Bearer abc' } $receiver->log('oauth')), 0, 'with it');

	# what comes while a batch waits for its token makes it another batch
	$elsewhere->set(replies => { held => [ { body => { access_token => 'abc', expires_in => 3600 } } ] });
	webhook('joined', 'shaped', batch_size => 10,
		auth => { type => 'oauth2', token_url => $elsewhere->url('/scripted-until-told/-/held'), client_id => 'me' },
		credentials => { client_secret => 'x' });
	emit('joined', 2);
	ok($elsewhere->wait_for(1, 'held'), 'a token is asked for');
	emit('joined', 3, q{jsonb_build_object('n', i + 2)});
	wait_until(q{SELECT count(*) = 5 FROM chatwebhook.queue q WHERE chatwebhook._claimed(q.id)});
	$elsewhere->set(up => ['held']);
	ok(wait_idle($node), 'the worker is done');
	is_deeply([ map { [ map { $_->{data}{n} } @{ $json->decode($_->{body})->{events} } ] } $receiver->log('joined') ],
		[ [ 1 .. 5 ] ], 'all of which is sent');
};

subtest 'from requests for one event to batches' => sub {
	my ($id) = webhook('grows', 'steps', path => '/ok', max_retries => 100,
		settings => { elsewhere => $elsewhere->url('/down-until-told/-/grows') });
	emit('grows', 5);
	wait_until(q{SELECT count(*) = 5 FROM chatwebhook.queue WHERE replies IS NOT NULL});
	sql(qq{UPDATE chatwebhook.webhook SET batch_size = 10 WHERE id = '$id'});
	ok(wait_idle($node), 'the worker is done');
	like(outcome('grows'), qr/^(delivered \d+(; )?)+$/, 'all are delivered');
	my @batches = grep { $_->{method} eq 'POST' } $receiver->log('grows');
	is_deeply([ sort map { $_->{data}{n} } map { @{ $json->decode($_->{body})->{batch} } } @batches ], [ 1 .. 5 ],
		'what was under way is sent anew');
	is(scalar(grep { @{ $json->decode($_->{body})->{replies} } } @batches), 0, 'without the replies so far');
};

subtest 'what is as large as it may be' => sub {
	webhook('large', 'shaped');
	webhook('large batch', 'cloudevents', chatbot_id => 'large', batch_size => 100, settings => { source => '/' . 'x' x 999 });
	sql(q{SELECT chatwebhook.emit('test.shape', 'large', repeat('c', 16000), jsonb_build_object('x', repeat('x', 1024 * 1024 - 8)))});
	emit('large', 400, q{jsonb_build_object('x', repeat(E'\u0001', 1600))});
	ok(wait_idle($node), 'the worker is done');
	is(outcome('large'), 'delivered 1', 'still goes, in another shape');
	is(outcome('large batch'), 'delivered 1', 'and in batches');
};

subtest 'a secret where there was none' => sub {
	my ($id) = webhook('later', 'unsigned');
	emit('later', 1);
	ok(wait_idle($node), 'the worker is done');
	sql(qq{UPDATE chatwebhook.webhook SET connector = 'shaped' WHERE id = '$id'});
	$receiver->set_secret('later', sql(qq{SELECT chatwebhook.secret('$id')}));
	emit('later', 1);
	ok(wait_idle($node), 'the worker is done');
	my @requests = $receiver->log('later');
	is(scalar(unverified($requests[0])), 1, 'before, nothing was signed');
	is(scalar(unverified($requests[1])), 0, 'after the connector has changed, all is');

	webhook('flag', 'unsigned');
	sql(q{UPDATE chatwebhook.connector SET signed = true WHERE name = 'unsigned'});
	$receiver->set_secret('flag', sql(q{SELECT chatwebhook.secret(id) FROM chatwebhook.webhook WHERE name = 'flag'}));
	emit('flag', 1);
	ok(wait_idle($node), 'the worker is done');
	is(scalar(unverified($receiver->log('flag'))), 0, 'so it is where the connector itself has become signed');

	# as after a restore that has not brought it yet
	sql(q{DELETE FROM chatwebhook.vault v USING chatwebhook.webhook w WHERE w.id = v.webhook_id AND w.name = 'flag'});
	emit('flag', 1);
	wait_until(q{SELECT problem = 'it has no signing secret' FROM chatwebhook.health h
		JOIN chatwebhook.webhook w ON w.id = h.webhook_id WHERE w.name = 'flag'});
	is($receiver->count('flag'), 1, 'without one, nothing is sent');
	sql(q{UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'flag'});
	$receiver->set_secret('flag', sql(q{SELECT chatwebhook.rotate_secret(id) FROM chatwebhook.webhook WHERE name = 'flag'}));
	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'flag'});
	ok(wait_idle($node), 'the worker is done');
	is(scalar(unverified(($receiver->log('flag'))[-1])), 0, 'until there is one again');
};

$node->stop;
done_testing();
