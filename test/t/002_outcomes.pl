# What the worker makes of every answer that a receiver gives, or does not give.
#
# Only a receiver that misbehaves can show which answers are final, which are
# tried again and when, that no answer is too long, too slow or too strange, what
# is kept of each, and that the figures agree with what the receiver saw.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket qw(getaddrinfo getnameinfo NI_NUMERICHOST SOCK_STREAM);
use Sys::Hostname qw(hostname);
use Test::More;
use Time::HiRes qw(time);

my $json = JSON::PP->new->canonical->allow_nonref;

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.log_attempts' => 'all',
	# every failure here is to be an attempt
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.max_response_size' => '10kB');
my $worker = sql_when('SELECT pid FROM chatwebhook.worker_status');

# Run SQL until it gives anything.
sub sql_when
{
	my ($sql) = @_;
	wait_until("SELECT EXISTS ($sql)")
	  or die "$sql: nothing";
	return sql($sql);
}

# Emit an event that every webhook gets, or only those of one chatbot.
sub emit
{
	my ($chatbot, $count) = @_;
	$chatbot = defined $chatbot ? "'$chatbot'" : 'NULL';
	$count //= 1;
	sql("SELECT chatwebhook.emit('message.sent', $chatbot, NULL,
			'{\"role\": \"bot\", \"content\": \"hello\"}')
		 FROM generate_series(1, $count)");
	return;
}

# A webhook for the events of the chatbot of the same name; its id.
sub webhook
{
	my ($name, %columns) = @_;
	my ($id) = create_webhook(
		$node,
		name => $name,
		chatbot_id => $name,
		backoff => '10 ms',
		max_retries => 2,
		%columns);
	return $id;
}

# What the delivery view says of a webhook's only delivery.
sub delivery
{
	my ($name, @columns) = @_;
	my $columns = join ', ', @columns;
	return sql("SELECT $columns FROM chatwebhook.delivery WHERE webhook_name = '$name'");
}

# What the attempt table says of a webhook's only delivery, oldest first.
sub attempts
{
	my ($name, @columns) = @_;
	my $columns = join ', ', @columns;
	return sql("SELECT $columns FROM chatwebhook.attempt a
		JOIN chatwebhook.delivery d ON d.id = a.delivery_id
		WHERE d.webhook_name = '$name' ORDER BY a.attempt");
}

# What a webhook's health says.
sub health
{
	my ($name, @columns) = @_;
	my $columns = join ', ', @columns;
	return sql("SELECT $columns FROM chatwebhook.webhook_health WHERE name = '$name'");
}

# Change a setting and start anew, so that it holds from here on.
sub restart_with
{
	my ($setting, $value) = @_;
	sql("ALTER SYSTEM SET $setting = $value");
	$node->restart;
	$worker = sql_when('SELECT pid FROM chatwebhook.worker_status');
	return;
}

# Nothing listens there: it did, a moment ago.
my $refusing = start_receiver();
$refusing->stop;

# This one gets only requests that it breaks off.  No idle connection leads to
# it, so whatever is repeated there is the worker's doing.
my $rude = start_receiver();
$Chatwebhook::last_receiver = $receiver;

# What the receiver does, what becomes of the delivery, after how many attempts,
# its last error and its last status.
my $rudely = { receiver => $rude };
# Time for a request to arrive and for the first bytes of a reply, which then
# takes far longer than that.
my $hurry = scaled(3);
my $hurried = { max_retries => 1, timeout => "$hurry s" };
my $endless = 10 * $hurry;
my %outcomes = (
	'chunked' => [ '/chunked', {}, 'delivered', 1, undef, 200 ],
	'interim' => [ '/continue', {}, 'delivered', 1, undef, 200 ],
	'close' => [ '/close', {}, 'delivered', 1, undef, 200 ],
	'echo' => [ '/echo', {}, 'delivered', 1, undef, 200 ],
	'empty' => [ '/empty', {}, 'delivered', 1, undef, 204 ],
	'slow but in time' => [ '/delay-ms/300', {}, 'delivered', 1, undef, 200 ],
	'big' => [ '/big/3000000', {}, 'delivered', 1, undef, 200 ],
	'full' => [ '/big/10240', {}, 'delivered', 1, undef, 200 ],
	'endless' => [ '/endless', { timeout => '5 minutes' }, 'delivered', 1, undef, 200 ],
	'nul' => [ '/nul', {}, 'delivered', 1, undef, 200 ],
	'some headers' => [ '/many-headers?n=150', {}, 'delivered', 1, undef, 200 ],
	'flaky' => [ '/flaky/2', {}, 'delivered', 3, undef, 200 ],

	# what an interim reply asks for is not what the final one does
	'interim error' => [ '/continue?status=503', {}, 'dead', 3, 'HTTP status 503', 503 ],
	'no retries' =>
	  [ '/status/500', { max_retries => 0 }, 'dead', 1, 'HTTP status 500', 500 ],
	'big error' => [ '/scripted', {}, 'dead', 1, 'HTTP status 400', 400 ],
	'many headers' =>
	  [ '/many-headers?n=1000', {}, 'dead', 3, qr/headers are too large/, 200 ],
	'large headers' => [
		'/many-headers?n=20&size=3000',
		{}, 'dead', 3, qr/headers are too large/, 200 ],
	'eof' =>
	  [ '/eof', $rudely, 'dead', 3, 'the connection was closed without a reply', undef ],
	'reset' => [ '/reset', $rudely, 'dead', 3, qr/connection was lost/, undef ],
	'reset in the body' => [
		'/reset-mid-body', $rudely, 'dead', 3,
		qr/connection was (lost while reading|closed within) the reply/, 200 ],
	'garbage' => [ '/garbage', $rudely, 'dead', 3, 'the reply is not HTTP', undef ],
	'refused' => [
		undef, { url => $refusing->url('/') },
		'dead', 3, 'could not connect: Connection refused', undef ],
	'no such host' => [
		undef,
		{ url => 'http://receiver.invalid/', max_retries => 1, timeout => "$hurry s" },
		'dead', 2, qr/look(ing)? up the host's name/, undef ],
	'hang' => [
		'/hang', $hurried, 'dead', 2, 'timed out while waiting for the reply', undef ],
	'slow headers' =>
	  [ "/slow-headers/$endless", $hurried, 'dead', 2, qr/timed out while .* repl/, 200 ],
	'slow body' => [
		"/slow-body/$endless", $hurried, 'dead', 2, qr/timed out while reading the reply/, 200 ],
	'drop by drop' => [
		'/endless?every=0.02',
		$hurried, 'dead', 2, qr/timed out while reading the reply/, 200 ],);
foreach my $code (200, 201, 202, 206, 299)
{
	$outcomes{"status $code"} = [ "/status/$code", {}, 'delivered', 1, undef, $code ];
}
foreach my $code (304, 400, 401, 403, 404, 405, 409, 413, 415, 422, 451, 600, 999)
{
	$outcomes{"status $code"} =
	  [ "/status/$code", {}, 'dead', 1, "HTTP status $code", $code ];
}
foreach my $code (300, 301, 302, 303, 307, 308)
{
	$outcomes{"redirect $code"} = [
		"/redirect?status=$code&to=/ok/-/followed",
		{}, 'dead', 1, "HTTP status $code", $code ];
}
foreach my $code (408, 425, 429, 500, 501, 502, 503, 504, 505, 507, 599)
{
	$outcomes{"status $code"} =
	  [ "/status/$code", {}, 'dead', 3, "HTTP status $code", $code ];
}

subtest 'every kind of answer' => sub {
	$receiver->set(replies =>
		  { 'big error' => [ { status => 400, body => 'e' x 50_000 } ] });
	foreach my $name (sort keys %outcomes)
	{
		my ($path, $columns) = @{ $outcomes{$name} };
		webhook(
			$name,
			chatbot_id => undef,
			defined $path ? (path => $path) : (),
			%$columns);
	}
	emit();
	ok(wait_idle($node), 'the worker is done');

	foreach my $name (sort keys %outcomes)
	{
		my ($path, $columns, $status, $attempts, $error, $code) =
		  @{ $outcomes{$name} };
		my ($got_status, $got_attempts, $got_code, $got_error) = split /\|/,
		  delivery($name, 'status', 'attempts', 'last_status_code', 'last_error'),
		  -1;
		is("$got_status after $got_attempts",
			"$status after $attempts", "$name: $status");
		is($got_code, $code // '', "$name: last_status_code");
		ref $error
		  ? like($got_error, $error, "$name: last_error")
		  : is($got_error, $error // '', "$name: last_error");
		my $count = ($columns->{receiver} // $receiver)->count($name);
		is($count, $attempts, "$name: as many requests") if defined $path;
	}
	is($receiver->count('followed'), 0, 'no redirect was followed');
	isnt(
		delivery('slow headers', 'last_error'),
		delivery('slow body', 'last_error'),
		'a time-out in the headers and one in the body are told apart');
};

subtest 'what is kept of the attempts' => sub {
	my @kept = ('a.attempt', 'a.status_code', 'a.error', 'a.response_body');
	is( attempts('flaky', @kept),
		join("\n",
			'1|503|HTTP status 503|{"error":"503 Service Unavailable"}',
			'2|503|HTTP status 503|{"error":"503 Service Unavailable"}',
			'3|200||{"ok":true,"id":"1"}'),
		'each has its status, its error and the reply\'s body');
	is( attempts('no retries', "a.response_headers->>'content-type'",
			"(a.response_headers->>'content-length')::int = length(a.response_body)"),
		'application/json|t',
		'the reply\'s headers are there, with their names in lower case');
	is(attempts('some headers', q{(SELECT count(*) FROM jsonb_object_keys(a.response_headers))}),
		152, 'even if they are many');
	is(attempts('empty', 'a.response_body'), '', 'no body is an empty one');
	foreach my $name ('big', 'endless', 'full')
	{
		is(attempts($name, q{a.response_body = repeat('.', 10240)}),
			't', "$name: the body is cut at chatwebhook.max_response_size");
	}
	is(attempts('big error', q{a.response_body = repeat('e', 10240)}),
		't', 'also that of an error');
	is(attempts('nul', 'a.response_body', "a.response_headers->>'x-not-utf-8'"),
		'{"nul":"?","not utf-8":"???(","half":"???"}|??',
		'what is not text is replaced by question marks');
	is( attempts('hang', 'a.attempt', 'a.status_code IS NULL', 'a.error',
			"a.latency_ms >= $hurry * 1000 - 1", 'a.response_headers IS NULL'),
		join("\n",
			map { "$_|t|timed out while waiting for the reply|t|t" } 1, 2),
		'one without a reply has its error and its latency');
	is( sql(q{SELECT count(*) FROM chatwebhook.delivery d
			WHERE attempts <> (SELECT count(*) FROM chatwebhook.attempt a
				WHERE a.delivery_id = d.id AND a.webhook_id = d.webhook_id)}),
		0,
		'with log_attempts = all every attempt is kept');
	is( sql(q{SELECT count(*) FROM chatwebhook.delivery d
			JOIN chatwebhook.attempt a ON a.delivery_id = d.id AND a.attempt = d.attempts
			WHERE a.latency_ms IS DISTINCT FROM d.latency_ms
				OR a.status_code IS DISTINCT FROM d.last_status_code
				OR a.error IS DISTINCT FROM d.last_error
				OR a.started_at IS DISTINCT FROM d.last_attempt_at}),
		0,
		'the last one agrees with the delivery');
	is(sql(q{SELECT count(*), min(attempts), max(attempts),
				bool_and(event->'data'->>'content' = 'hello')
			FROM chatwebhook.dead_letter}),
		(grep { $_->[2] eq 'dead' } values %outcomes) . '|1|3|t',
		'the dead letters have their events');

	sql('DELETE FROM chatwebhook.webhook');
	restart_with('chatwebhook.log_attempts', 'none');
	webhook('none', path => '/flaky/1');
	emit('none');
	ok(wait_idle($node), 'the worker is done');
	is(delivery('none', 'attempts') . ' ' . attempts('none', 'count(*) OVER ()'),
		'2 ', 'with log_attempts = none no attempt is kept');
	restart_with('chatwebhook.log_attempts', 'failures');
	webhook('failures', path => '/flaky/1');
	emit('failures');
	ok(wait_idle($node), 'the worker is done');
	is(attempts('failures', 'a.attempt', 'a.status_code'),
		'1|503', 'with log_attempts = failures those that failed are');
};

subtest 'Retry-After' => sub {
	my $short = { backoff => '2 s', max_backoff => '1 minute' };
	my $long = { backoff => '50 s', max_backoff => '1 minute' };
	my %waits = (
		'seconds' => [ '/status/503?retry_after=7', $short, 7000, 7000 ],
		'429' => [ '/status/429?retry_after=7', $short, 7000, 7000 ],
		'beyond max_backoff' =>
		  [ '/status/503?retry_after=100', $short, 100_000, 100_000 ],
		'date' => [ '/status/503?retry_after_date=100', $short, 60_000, 100_000 ],
		'too many seconds' =>
		  [ '/status/429?retry_after=99999999999', $short, 3_600_000, 3_600_000 ],
		'date far ahead' =>
		  [ '/status/503?retry_after_date=86400', $short, 3_600_000, 3_600_000 ],
		'shorter than backoff' =>
		  [ '/status/503?retry_after=7', $long, 50_000, 50_000 ],
		'date gone by' =>
		  [ '/status/503?retry_after_date=-3600', $short, 2000, 2000 ],
		'nonsense' => [ '/status/503?retry_after=soon', $short, 2000, 2000 ],
		'negative' => [ '/status/503?retry_after=-7', $short, 2000, 2000 ],
		'other status' => [ '/status/500?retry_after=700', $short, 2000, 2000 ]);
	webhook(
		$_,
		chatbot_id => 'waits',
		path => $waits{$_}[0],
		%{ $waits{$_}[1] }) foreach keys %waits;
	emit('waits');
	becomes_true(
		"SELECT count(*) FILTER (WHERE attempts = 1) = " . keys(%waits)
		  . q{ FROM chatwebhook.delivery WHERE chatbot_id = 'waits'},
		'each was tried once');
	foreach my $name (sort keys %waits)
	{
		my ($least, $most) = @{ $waits{$name} }[ 2, 3 ];
		my $wait = delivery($name, q{round(extract(epoch FROM
			next_attempt_at - last_attempt_at) * 1000) - latency_ms});
		ok($least <= $wait && $wait <= $most, "$name: a wait of $wait ms");
	}
	sql('DELETE FROM chatwebhook.webhook');

	webhook('respected', path => '/flaky/1?retry_after=1');
	webhook('counted', path => '/status/429?retry_after=0');
	emit($_) foreach 'respected', 'counted';
	ok(wait_idle($node), 'the worker is done');
	my ($first, $second) = map { $_->{time} } $receiver->log('respected');
	cmp_ok($second - $first, '>=', 1, 'the retry comes not before its time');
	is(delivery('respected', 'status', 'attempts'), 'delivered|2', 'but then');
	is(delivery('counted', 'status', 'attempts'),
		'dead|3', 'a receiver that goes on asking for patience exhausts the retries');
};

subtest '410 Gone' => sub {
	my $before = sql('SELECT now()');
	webhook('gone', path => '/fail/1/then/ok?status=410', max_in_flight => 1);
	emit('gone', 10);
	ok(wait_idle($node), 'the worker is done');
	is( sql(qq{SELECT enabled, disabled_reason, disabled_at BETWEEN '$before' AND now()
			FROM chatwebhook.webhook WHERE name = 'gone'}),
		'f|the receiver answered 410 Gone|t',
		'the webhook is disabled, for a reason');
	is(health('gone', 'state', 'pending', 'dead', 'in_flight'),
		'disabled|9|1|0', 'what was pending waits');
	is($receiver->count('gone'), 1, 'no more requests were made');
	is(sql(q{SELECT last_error FROM chatwebhook.dead_letter WHERE webhook_name = 'gone'}),
		'HTTP status 410', 'the one that was answered is dead');
	emit('gone');
	is(health('gone', 'pending'), 9, 'nothing new is queued for it');

	sql(q{UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'gone'});
	is( sql(q{SELECT disabled_reason IS NULL AND disabled_at IS NULL
				FROM chatwebhook.webhook WHERE name = 'gone'}),
		't',
		'enabling it forgets the reason');
	ok(wait_idle($node), 'the worker is done');
	is(health('gone', 'pending', 'successes', 'dead'),
		'0|9|1', 'what was pending was delivered');
};

subtest 'connections that were closed while idle' => sub {
	webhook('stale', path => '/stale', max_retries => 0);
	emit('stale'), wait_idle($node) foreach 1 .. 10;
	is(health('stale', 'successes', 'failures'),
		'10|0', 'a receiver that breaks its promise to keep them loses nothing');

	# Leave idle connections behind, to a receiver of its own.
	my $own = start_receiver();
	webhook('idle', path => '/delay-ms/50');
	emit('idle', 30);
	ok(wait_idle($node), 'the worker is done');
	my %connections = map { $_->{connection} => 1 } $own->log;
	cmp_ok(scalar keys %connections, '>', 3, 'there are idle connections');
	foreach my $rudeness ('eof', 'reset')
	{
		webhook("idle $rudeness", path => "/$rudeness", max_retries => 0);
		emit("idle $rudeness");
		ok(wait_idle($node), 'the worker is done');
		cmp_ok($own->count("idle $rudeness"), '<=', 2,
			"$rudeness: it is not asked again and again within an attempt");
	}
	$Chatwebhook::last_receiver = $receiver;
};

subtest 'a receiver that does not read' => sub {
	webhook('no reader', path => "/slow-read/$endless", max_retries => 0, timeout => "$hurry s");
	script(q{SET chatwebhook.max_payload_size = '64MB';
		  SELECT chatwebhook.emit('message.sent', 'no reader', NULL,
			jsonb_build_object('role', 'bot', 'content', repeat('x', 20000000)))});
	ok(wait_idle($node), 'the worker is done');
	is(delivery('no reader', 'status', 'attempts'), 'dead|1', 'it runs out of time');
	like(delivery('no reader', 'last_error'),
		qr/timed out while (sending|waiting)/, 'which its error says');
};

subtest 'long bodies' => sub {
	# together they are longer than what the worker holds at a time
	webhook('unread', url => $refusing->url('/'), max_retries => 0);
	foreach my $n (1 .. 3)
	{
		script(q{SET chatwebhook.max_payload_size = '64MB';
			  SELECT chatwebhook.emit('message.sent', 'unread', NULL,
				jsonb_build_object('role', 'bot', 'content', repeat('x', 20000000)))});
		ok(wait_idle($node), "$n: the worker is done");
	}
	is(delivery('unread', q{string_agg(status, ' ')}), 'dead dead dead', 'one that has ended makes room for the next');
};

subtest 'retry()' => sub {
	my $id = webhook('retried', path => '/down-until-told', max_retries => 1);
	emit('retried');
	ok(wait_idle($node), 'the worker is done');
	is(delivery('retried', 'status', 'attempts'), 'dead|2', 'a delivery is dead');
	my $delivery = delivery('retried', 'id');
	is( sql("SELECT event->>'type', event->'data'->>'content', last_error, attempts
				FROM chatwebhook.dead_letter WHERE id = $delivery"),
		'message.sent|hello|HTTP status 503|2',
		'and a dead letter');

	is(sql("SELECT chatwebhook.retry($delivery)"), 't', 'it is tried again');
	ok(wait_idle($node), 'the worker is done');
	is(delivery('retried', 'status', 'attempts'), 'dead|4', 'with all its retries');
	$receiver->set(up => ['retried']);
	is(sql("SELECT chatwebhook.retry($delivery)"), 't', 'and again');
	ok(wait_idle($node), 'the worker is done');
	is(delivery('retried', 'status', 'attempts', 'last_error IS NULL'),
		'delivered|5|t', 'then it is delivered');
	is(sql("SELECT count(*) FROM chatwebhook.dead_letter WHERE id = $delivery"),
		0, 'and no dead letter any more');
	is($receiver->count('retried'), 5, 'the receiver has seen it five times');
	my %ids = map { $_->{headers}{'webhook-id'} => 1 } $receiver->log('retried');
	is(scalar keys %ids, 1, 'under one id');
	is(sql("SELECT chatwebhook.retry($delivery)"), 'f', 'a delivered one is not repeated');
	is(sql('SELECT chatwebhook.retry(-1)'), 'f', 'nor is one that does not exist');
};

subtest 'cancel()' => sub {
	webhook('canceled', path => '/status/503', backoff => '1 hour', max_backoff => '1 hour');
	emit('canceled');
	becomes_true(
		q{SELECT attempts = 1 FROM chatwebhook.delivery WHERE webhook_name = 'canceled'},
		'a delivery waits for its retry');
	my $delivery = delivery('canceled', 'id');
	is(sql("SELECT chatwebhook.cancel($delivery)"), 't', 'it is canceled');
	is(delivery('canceled', 'status', 'attempts'), 'canceled|1', 'which its status says');
	is(sql("SELECT chatwebhook.cancel($delivery)"), 'f', 'it cannot be canceled twice');
	ok(wait_idle($node), 'nothing is pending');

	webhook('canceled in flight', path => '/hang-until-told', timeout => '5 minutes');
	emit('canceled in flight');
	ok($receiver->wait_for(1, 'canceled in flight'), 'a request is under way');
	is(health('canceled in flight', 'in_flight', 'pending'), '1|1', 'health says so');
	$delivery = delivery('canceled in flight', 'id');
	is(sql("SELECT chatwebhook.cancel($delivery)"), 't', 'it is canceled');
	$receiver->set(up => ['canceled in flight']);
	becomes_true(
		q{SELECT in_flight = 0 AND total = 1 FROM chatwebhook.webhook_health
			WHERE name = 'canceled in flight'},
		'the answer arrives');
	is(delivery('canceled in flight', 'status'), 'canceled', 'it stays canceled');
	is($receiver->count('canceled in flight'), 1, 'and is not sent again');
};

subtest 'a webhook is deleted while its requests are in flight' => sub {
	my $id = webhook('deleted', path => '/hang-until-told', timeout => '5 minutes');
	emit('deleted', 10);
	ok($receiver->wait_for(1, 'deleted'), 'a request is under way');
	sql("DELETE FROM chatwebhook.webhook WHERE id = '$id'");
	is( sql(q{SELECT count(*), count(*) FILTER (WHERE status = 'canceled'
				AND last_error = 'the webhook was deleted')
			FROM chatwebhook.delivery WHERE webhook_name = 'deleted'}),
		'10|10',
		'all it was owed is canceled and stays in the history');
	my $count = $receiver->count('deleted');
	$receiver->set(up => ['deleted']);
	becomes_true('SELECT in_flight = 0 FROM chatwebhook.worker_status',
		'the answers arrive');
	webhook('bystander');
	emit('bystander');
	ok(wait_idle($node), 'the worker is done with another');
	is(delivery('bystander', 'status'), 'delivered', 'which it has delivered to');
	is($receiver->count('deleted'), $count, 'the deleted one got nothing more');
	is( sql(q{SELECT DISTINCT status FROM chatwebhook.delivery
			WHERE webhook_name = 'deleted'}),
		'canceled',
		'what was answered stays canceled');

	webhook('erased', path => '/hang-until-told', timeout => '5 minutes');
	emit('erased');
	ok($receiver->wait_for(1, 'erased'), 'a request is under way');
	sql('TRUNCATE chatwebhook.queue');
	$receiver->set(up => ['erased']);
	becomes_true(q{SELECT in_flight = 0 AND total = 1 FROM chatwebhook.webhook_health
			WHERE name = 'erased'}, 'one whose row is gone disturbs nobody');
};

subtest 'test_webhook()' => sub {
	my %id = map { $_->[0] => webhook(@$_) } (
		[ 'test ok', path => '/ok' ],
		[ 'test failure', path => '/status/500' ],
		[ 'test redirect', path => '/redirect?to=/ok/-/followed' ],
		[ 'test time-out', path => '/hang', timeout => "$hurry s" ],
		[ 'test refused', url => $refusing->url('/') ],
		[ 'test endless', path => '/endless' ],
		[ 'test interrupted', path => '/hang', timeout => '5 minutes' ]);
	my $test = sub {
		my ($name, @columns) = @_;
		my $columns = join ', ', @columns;
		return sql("SELECT $columns FROM chatwebhook.test_webhook('$id{$name}')");
	};
	my @columns = ('success', 'status_code', 'error', 'response_body');
	is($test->('test ok', @columns), 't|200||{"ok":true,"id":"1"}', 'a success');
	is( $test->('test failure', @columns),
		'f|500|HTTP status 500|{"error":"500 Internal Server Error"}', 'a failure');
	is($test->('test redirect', @columns), 'f|302|HTTP status 302|{}', 'a redirect');
	is($receiver->count('followed'), 0, 'is not followed');
	is( $test->('test time-out', @columns, "latency_ms >= $hurry * 1000 - 1"),
		'f||timed out while waiting for the reply||t', 'a time-out');
	is( $test->('test refused', @columns),
		'f||could not connect: Connection refused|', 'a refused connection');
	is($test->('test endless', 'success', 'length(response_body)'),
		't|10240', 'an endless body');

	my ($request) = $receiver->log('test ok');
	is($request->{headers}{'x-webhook-event'}, 'webhook.test', 'the event is webhook.test');
	is($json->decode($request->{body})->{type}, 'webhook.test', 'also in the body');
	ok($request->{verified}{signature} && $request->{verified}{standard},
		'both signatures hold');
	is(sql(q{SELECT count(*) FROM chatwebhook.event WHERE type = 'webhook.test'}),
		0, 'nothing is stored');
	is(health('test failure', 'total', 'failures'), '0|0', 'or counted');

	# Left alone it would take ten seconds, so an end before is statement_timeout's.
	# The server measures that: what it takes to start a psql does not count.
	like(
		script(qq{
			CREATE TEMP TABLE result (ended text, took interval);
			SET statement_timeout = '300 ms';
			DO \$\$
			BEGIN
				PERFORM chatwebhook.test_webhook('$id{'test interrupted'}');
			EXCEPTION WHEN query_canceled THEN
				INSERT INTO result VALUES (SQLERRM, clock_timestamp() - statement_timestamp());
			END
			\$\$;
			RESET statement_timeout;
			SELECT ended FROM result WHERE took < '10 s'}),
		qr/canceling statement due to statement timeout/,
		'statement_timeout ends it');
	my ($result, undef, $error) = $node->psql('postgres',
		'SELECT chatwebhook.test_webhook(gen_random_uuid())');
	like($error, qr/webhook ".*" does not exist/, 'there must be such a webhook');
};

subtest 'wait_until_idle()' => sub {
	is(sql('SELECT chatwebhook.wait_until_idle(\'0\')'), 't', 'true when nothing is pending');
	my $id = webhook('retry in an hour', path => '/status/503', backoff => '1 hour', max_backoff => '1 hour');
	emit('retry in an hour');
	my $begin = time;
	is(sql("SELECT chatwebhook.wait_until_idle('600 ms')"),
		'f', 'false when one waits for its retry');
	cmp_ok(time - $begin, '>=', 0.6, 'once the time is up');
	sql("UPDATE chatwebhook.webhook SET enabled = false WHERE id = '$id'");
	is(sql("SELECT chatwebhook.wait_until_idle('0')"),
		't', 'a disabled webhook does not count');
	webhook('slow', path => '/delay-ms/400');
	is( script(q{
			SELECT chatwebhook.emit('message.sent', 'slow', NULL,
				'{"role": "bot", "content": "hello"}') IS NOT NULL;
			SELECT chatwebhook.wait_until_idle('1 hour');
			SELECT status FROM chatwebhook.delivery WHERE webhook_name = 'slow'}),
		"t\nt\ndelivered",
		'it returns once all is finished');
};

subtest 'webhook_health agrees with what the receiver saw' => sub {
	# A reply for each request in turn; one request at a time, so that the order
	# is the same on both sides.
	my @codes = map { (200, 200, 503, 200, 500, 404, 200)[ ($_ * $_ + $_ / 5) % 7 ] } 1 .. 130;
	push @codes, 200, 200, 500, 400, 503;
	webhook(
		'mixture',
		path => '/scripted',
		max_in_flight => 1,
		max_retries => 1);
	$receiver->set(replies => {
		'mixture' => [
			(map { { status => $_ } } @codes),
			{ status => 503, headers => { 'Retry-After' => 1000 } } ] });

	# From what the receiver saw: the outcome of each request, and by event.
	my $last_seen = sub {
		my @requests = $receiver->log('mixture');
		my (@successes, %by_event);
		foreach my $n (0 .. $#requests)
		{
			my $code = $codes[$n] // 503;
			push @successes, $code == 200 ? 1 : 0;
			push @{ $by_event{ $requests[$n]{headers}{'webhook-id'} } }, $code;
		}
		return (\@successes, \%by_event);
	};
	my $emitted = 0;
	my $limit = 3 * @codes;
	while ($receiver->count('mixture') <= @codes && $emitted < $limit)
	{
		emit('mixture', 10);
		$emitted += 10;
		becomes_true(
			q{SELECT state = 'paused' AND in_flight = 0 OR NOT EXISTS (
				SELECT FROM chatwebhook.delivery
				WHERE webhook_name = 'mixture' AND status = 'pending')
				FROM chatwebhook.webhook_health WHERE name = 'mixture'},
			"$emitted events");
	}

	my ($successes, $by_event) = $last_seen->();
	my $total = @$successes;
	my $succeeded = grep { $_ } @$successes;
	my @recent = @$successes > 100 ? @{$successes}[ -100 .. -1 ] : @$successes;
	my $streak = 0;
	$_ ? ($streak = 0) : $streak++ foreach @$successes;
	my ($dead, $pending) = (0, 0);
	foreach my $codes (values %$by_event)
	{
		next if $codes->[-1] == 200;
		($codes->[-1] == 404 || $codes->[-1] == 400 || @$codes == 2) ? $dead++ : $pending++;
	}
	# the Retry-After of the last reply holds up all that is left
	$pending += $emitted - keys %$by_event;
	cmp_ok($total, '>', 130, 'the mixture was sent');
	cmp_ok($pending, '>', 0, 'with something pending');
	is( health('mixture', 'total', 'successes', 'failures', 'dead', 'pending',
			'consecutive_failures'),
		join('|', $total, $succeeded, $total - $succeeded, $dead, $pending, $streak),
		'totals, dead, pending and consecutive failures');
	is(health('mixture', 'round(success_rate * 100)'),
		scalar(grep { $_ } @recent), 'the success rate, of the last hundred');
	is( health('mixture', 'in_flight', 'last_error', 'state', 'last_success_at < last_failure_at',
			'oldest_pending_at = (SELECT min(created_at) FROM chatwebhook.delivery
				WHERE webhook_name = \'mixture\' AND status = \'pending\')'),
		'0|HTTP status 503|paused|t|t', 'and the rest');

	webhook('slow and healthy', path => '/delay-ms/200');
	is(health('slow and healthy', 'state', 'total', 'success_rate IS NULL'),
		'idle|0|t', 'one that was sent nothing is idle');
	emit('slow and healthy', 4);
	becomes_true(q{SELECT total = 4 FROM chatwebhook.webhook_health
		WHERE name = 'slow and healthy'}, 'four deliveries');
	is( health('slow and healthy', 'state', 'success_rate = 1',
			'avg_latency_ms BETWEEN 200 AND p95_latency_ms',
			q{p95_latency_ms = (SELECT max(latency_ms) FROM chatwebhook.delivery
				WHERE webhook_name = 'slow and healthy')},
			'last_error IS NULL', 'last_failure_at IS NULL', 'oldest_pending_at IS NULL'),
		'healthy|t|t|t|t|t|t', 'one that answers is healthy, with its latency');
};

# The machine's own name, and the address that it stands for, if that is one of
# 127.0.0.0/8.
sub inner_name
{
	my ($error, @found) =
	  getaddrinfo(hostname(), 80, { socktype => SOCK_STREAM });
	my @addresses = map { (getnameinfo($_->{addr}, NI_NUMERICHOST))[1] } @found;
	return if $error || !@addresses || grep { !/^127\./ } @addresses;
	return (hostname(), $addresses[0]);
}

subtest 'retry_delays' => sub {
	# they win over all other settings of retries
	my %others = (max_retries => 50, backoff => '1 day', max_backoff => '7 days');
	webhook('listed delays', path => '/status/503', retry_delays => '{0,10 ms,20 ms}', %others);
	webhook('empty delays', path => '/status/503', retry_delays => '{}', %others);
	webhook('asked delays', path => '/fail/1/then/ok?status=503&retry_after=1', retry_delays => '{0}', %others);
	emit($_) foreach 'listed delays', 'empty delays', 'asked delays';
	becomes_true(q{SELECT count(*) = 2 FROM chatwebhook.dead_letter WHERE webhook_name IN ('listed delays', 'empty delays')}, 'after the last, a delivery is dead');
	is(delivery('listed delays', 'attempts'), 4, 'a retry for each');
	is(delivery('empty delays', 'attempts'), 1, 'none for an empty list');
	sql(q{SELECT chatwebhook.retry(id) FROM chatwebhook.dead_letter WHERE webhook_name = 'listed delays'});
	becomes_true(q{SELECT attempts = 8 FROM chatwebhook.dead_letter WHERE webhook_name = 'listed delays'}, 'retry() begins with the first again');
	becomes_true(q{SELECT status = 'delivered' FROM chatwebhook.delivery WHERE webhook_name = 'asked delays'}, 'one that asked for a pause is delivered');
	my @times = map { $_->{time} } $receiver->log('asked delays');
	cmp_ok($times[1] - $times[0], '>=', 1, 'after that');
	# without the list, the others hold
	sql(q{UPDATE chatwebhook.webhook SET retry_delays = NULL, max_retries = 1, backoff = '10 ms' WHERE name = 'empty delays'});
	sql(q{SELECT chatwebhook.retry(id) FROM chatwebhook.dead_letter WHERE webhook_name = 'empty delays'});
	becomes_true(q{SELECT attempts = 3 FROM chatwebhook.dead_letter WHERE webhook_name = 'empty delays'}, 'they can be taken back');
};

subtest 'the header webhook-delivery' => sub {
	sql('DELETE FROM chatwebhook.webhook');
	my $reply = sub { my ($status, $value) = @_; return { status => $status, headers => { 'Webhook-Delivery' => $value }, body => 'x' }; };
	$receiver->set(replies => {
		abort => [ $reply->(503, ' Abort ') ],
		unknown => [ $reply->(503, 'later'), $reply->(200, 'abort') ],
		disable => [ $reply->(500, 'disable') ],
		thanks => [ $reply->(200, 'DISABLE, abort') ],
		batch => [ $reply->(503, 'abort') ],
		token => [ $reply->(500, 'disable'), { status => 200, body => '{"access_token": "t"}' } ] });
	webhook($_, path => '/scripted') foreach 'abort', 'unknown', 'disable', 'thanks';
	webhook('batch', path => '/scripted', batch_size => 10, batch_window => '1 min');
	webhook('neighbor');
	create_webhook($node, name => 'authorized', chatbot_id => 'authorized', backoff => '10 ms',
		auth => { type => 'oauth2', token_url => $receiver->url('/scripted/-/token'), client_id => 'c' },
		credentials => { client_secret => 's' });
	emit($_) foreach 'abort', 'unknown', 'disable', 'thanks', 'neighbor', 'authorized';
	emit('batch', 10);
	becomes_true(q{SELECT count(*) = 0 FROM chatwebhook.delivery WHERE status = 'pending'}, 'all is done');
	is(delivery('abort', 'status', 'attempts', 'last_status_code', 'last_error'),
		'dead|1|503|HTTP status 503 (webhook-delivery: abort)', 'abort: no retry');
	is(sql(q{SELECT enabled FROM chatwebhook.webhook WHERE name = 'abort'}), 't', 'and no more than that');
	is(delivery('unknown', 'status', 'attempts'), 'delivered|2', 'an unknown value is ignored, and a success stays one');
	is(delivery('disable', 'status', 'attempts', 'last_error'), 'dead|1|HTTP status 500 (webhook-delivery: disable)', 'disable: no retry');
	is(delivery('thanks', 'status', 'attempts'), 'delivered|1', 'with a success, it is delivered');
	becomes_true(qq{SELECT NOT enabled AND disabled_at IS NOT NULL AND disabled_reason = 'the receiver answered webhook-delivery: disable'
		FROM chatwebhook.webhook WHERE name = '$_'}, "$_: and the webhook is disabled") foreach 'disable', 'thanks';
	is(sql(q{SELECT string_agg(DISTINCT status || ' ' || attempts, ', ') || ' ' || count(*) FROM chatwebhook.delivery WHERE webhook_name = 'batch'}),
		'dead 1 10', 'abort is for all of a batch');
	is(delivery('authorized', 'status'), 'delivered', 'a token endpoint asks for nothing');
	is(delivery('neighbor', 'status'), 'delivered', 'others are delivered');
	is(sql(q{SELECT count(*) FROM chatwebhook.webhook WHERE NOT enabled}), 2, 'and stay enabled');
};

subtest 'the address policy holds where the connection is made' => sub {
	my ($name, $address) = inner_name();
	my $named;

	sql('DELETE FROM chatwebhook.webhook');
	my $id = webhook('inside', max_retries => 5);
	if (defined $name)
	{
		$named = start_receiver(args => [ '--host' => $address ]);
		webhook('named', max_retries => 0,
			url => $named->url('/ok/-/named') =~ s{//[^:]*}{//$name}r);
	}
	emit($_) foreach 'inside', 'named';
	ok(wait_idle($node), 'the worker is done');
	is($receiver->count('inside'), 1, 'as long as the network is allowed, it is sent to');
	is($named->count, 1, 'also by a name') if $named;
	sql(q{ALTER SYSTEM SET chatwebhook.allowed_networks = ''});
	$node->reload;

	# The worker reads its settings in its own time.
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (health('inside', 'dead') == 0 && time < $deadline)
	{
		emit('inside');
		wait_idle($node);
	}
	my $count = $receiver->count('inside');
	emit($_) foreach 'inside', 'named';
	ok(wait_idle($node), 'the worker is done');
	is($receiver->count('inside'), $count, 'after the reload it is not');
	like(
		sql(q{SELECT DISTINCT attempts, last_status_code IS NULL, last_error
			FROM chatwebhook.dead_letter WHERE webhook_name = 'inside'}),
		qr/\A1\|t\|.*loopback address\Z/,
		'the deliveries are dead at once, and say why');
	my (undef, $out, $err) = $node->psql('postgres',
		"SELECT success, error FROM chatwebhook.test_webhook('$id')");
	like("$out$err", qr/loopback address/, 'so does test_webhook()');
	unlike($out, qr/^t/, 'which is no success');
	is($receiver->count('inside'), $count, 'which sends nothing either');

  SKIP:
	{
		skip 'the name of this machine does not stand for 127.0.0.0/8', 2
		  if !$named;
		is( sql(q{SELECT attempts, last_error FROM chatwebhook.dead_letter
				WHERE webhook_name = 'named'}),
			q{1|could not resolve the host name, or it resolves to addresses that are not allowed},
			'a name that leads inside is found out');
		is($named->count, 1,
			'before anything more is sent');
	}
};

is(sql('SELECT pid, last_error IS NULL OR last_error = \'\' FROM chatwebhook.worker_status'),
	"$worker|t", 'the worker is the same, and has had no trouble of its own');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/,
	'no process has crashed');

$node->stop;
done_testing();
