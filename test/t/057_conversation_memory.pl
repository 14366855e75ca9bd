# What a connector remembers of a conversation: written with the step that taught it,
# read by every later call, and gone when it should be.
#
# Only a worker, killed between the steps, and several at once, can show that a
# conversation gets one thread, in order, whatever happens.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Session;
use Test::More;

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'restart_after_crash' => 'on',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.connector_timeout' => '1min',
	'chatwebhook.retention' => '-1');
my $json = JSON::PP->new->canonical;

# A service with a thread for each conversation, which the first request opens.  It
# echoes what it gets, so "ts" of a request is the thread's in the reply.
script(q{CREATE FUNCTION public.threads(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
	LANGUAGE sql STABLE AS $$
	SELECT CASE WHEN webhook->'memory'->'thread' IS NULL AND event->>'conversationId' IS NOT NULL
	            THEN ROW('POST', NULL, NULL, jsonb_build_object('ok', true, 'open', event->'conversationId',
	                     'ts', concat(event->>'chatbotId', '/', event->>'conversationId'), 'by', event->'data'->'n'), false)::chatwebhook.request
	            ELSE ROW('POST', webhook->'settings'->>'post', NULL, jsonb_build_object('ok', true, 'n', event->'data'->'n',
	                     'memory', webhook->'memory', 'blob', event->'data'->'blob', 'other', event->'data'->'other', 'null', NULL), true)::chatwebhook.request
	       END $$;
	INSERT INTO chatwebhook.connector (name, function, replies) VALUES ('threads', 'public.threads',
		'[{"status": 200, "path": "$.ok == true || $.received == true", "means": "success", "remember": {"thread": "$.ts", "none": "$.null"}},
		  {"status": 200, "path": "$.blob <> null || $.other <> null", "remember": {"blob": "$.blob", "other": "$.other", "last": "$.n"}}]')});

sub webhook
{
	my ($name, %more) = @_;
	my ($id) = create_webhook(
		$node,
		name => $name,
		chatbot_id => $name,
		events => ['webhook.test'],
		path => '/echo',
		connector => 'threads',
		max_retries => 10,
		backoff => '10 ms',
		max_backoff => '10 ms',
		timeout => '5 minutes',
		%more);
	return $id;
}

sub emit
{
	my ($chatbot, $conversation, $data) = @_;
	sql("SELECT chatwebhook.emit('webhook.test', '$chatbot', " . literal($conversation) . ', ' . literal($data) . ')');
	return;
}

sub bodies
{
	return map { $json->decode($_->{body}) } $receiver->log($_[0]);
}

sub memory
{
	my ($id, $conversation) = @_;
	return sql("SELECT coalesce(string_agg(remembered::text, ' '), 'none') FROM chatwebhook.memory
		WHERE webhook_id = '$id' AND conversation_id = '" . ($conversation // 'c1') . q{'});
}

sub worker_pid
{
	wait_until('SELECT count(*) = 1 FROM chatwebhook.worker_status') or die "there is no worker\n";
	return sql('SELECT pid FROM chatwebhook.worker_status');
}

sub set
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = '$value'");
	sql('SELECT pg_reload_conf()');
	wait_until("SELECT current_setting('$name') = '$value'") or die "$name does not become $value\n";
	return;
}

subtest 'the next step and the next delivery know it' => sub {
	my $id = webhook('shop');
	is(sql("SELECT ordered FROM chatwebhook.webhook WHERE id = '$id'"), 't', 'the webhook is ordered');
	emit('shop', 'c1', { n => 1 });
	emit('shop', 'c1', { n => 2 });
	emit('shop', 'c2', { n => 3 });
	emit('shop', undef, { n => 4 });
	ok(wait_idle($node), 'all are delivered');
	my @bodies = bodies('shop');
	is(scalar(grep { $_->{open} } @bodies), 2, 'two threads are opened');
	my %memory = map { $_->{n} => $_->{memory} } grep { defined $_->{n} } @bodies;
	is_deeply(\%memory,
		{ 1 => { thread => 'shop/c1' }, 2 => { thread => 'shop/c1' }, 3 => { thread => 'shop/c2' }, 4 => {} },
		'each message knows its thread; what is null is not remembered, nor is anything without a conversation');
	is(memory($id), '{"thread": "shop/c1"}', 'it is in the table');
	is(sql(q{SELECT count(*) FROM chatwebhook.memory}), 2, 'for each of the two');
	is(sql(qq{SELECT body->'memory' FROM chatwebhook.preview('$id',
		'{"type": "webhook.test", "chatbotId": "shop", "conversationId": "c2", "data": {"n": 5}}')}), '{"thread": "shop/c2"}', 'and preview() reads it');
};

subtest 'conversations of the same id in several chatbots' => sub {
	my ($id) = create_webhook($node, name => 'every', events => ['webhook.test'], path => '/echo', connector => 'threads', chatbot_id => undef);
	emit($_, 'c1', { n => 1 }) foreach 'one', 'other';
	ok(wait_idle($node), 'all are delivered');
	is_deeply([ sort map { $_->{memory}{thread} } grep { $_->{n} } bodies('every') ], [ 'one/c1', 'other/c1' ], 'each has its own');
	sql("DELETE FROM chatwebhook.webhook WHERE id = '$id'");
	is(memory($id), 'none', 'gone with the webhook');
};

subtest 'a worker that is killed between the steps' => sub {
	foreach my $how ('KILL', 'immediate')
	{
		my $name = "killed-$how";
		$receiver->set(down => ["$name-post"]);
		my $id = webhook($name, settings => { post => $receiver->url("/hang-until-told/-/$name-post") });
		emit($name, 'c1', { n => $_ }) foreach 1 .. 3;
		ok($receiver->wait_for(1, "$name-post"), "$how: the second step is under way");
		is(memory($id), qq({"thread": "$name/c1"}), 'the first has taught the thread');
		if ($how eq 'KILL')
		{
			my $offset = -s $node->logfile;
			kill 'KILL', worker_pid();
			$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
			wait_until('SELECT true') or die "the server is not back\n";
		}
		else
		{
			end_sessions();
			$node->stop('immediate');
			$node->start;
		}
		ok($receiver->wait_for(2, "$name-post"), 'the second step is made again');
		is(memory($id), qq({"thread": "$name/c1"}), 'the thread is still known');
		$receiver->set(up => ["$name-post"]);
		ok(wait_idle($node), 'all are delivered');
		is($receiver->count($name), 1, 'and the first step was made once');
		my @posts = bodies("$name-post");
		is(join(' ', map { $_->{n} } @posts), '1 1 2 3', 'messages in their order');
		is(scalar(grep { $_->{memory}{thread} ne "$name/c1" } @posts), 0, 'in one thread');
	}
};

subtest 'a reply that is lost' => sub {
	my $id = webhook('lost', path => '/fail/2/then/echo');
	emit('lost', 'c1', { n => $_ }) foreach 1 .. 2;
	ok(wait_idle($node), 'all are delivered');
	is(join(' ', map { $_->{open} ? 'open' : $_->{n} } bodies('lost')), 'open open open 1 2', 'only what had failed is repeated');
};

subtest 'no more than 8 kB' => sub {
	set('chatwebhook.log_attempts', 'failures');
	my $id = webhook('full');
	my $note = sub {
		return sql("SELECT coalesce(string_agg(note, ', ' ORDER BY delivery_id), 'none') FROM chatwebhook.attempt WHERE webhook_id = '$id'");
	};
	emit('full', 'c1', { n => 1, blob => 'x' x 5000 });
	ok(wait_idle($node), 'it is delivered');
	is(sql("SELECT octet_length(remembered::text) > 5000 FROM chatwebhook.memory WHERE webhook_id = '$id'"), 't', '5 kB are remembered');
	is($note->(), 'none', 'that is no news');
	emit('full', 'c1', { n => 2, other => 'y' x 5000 });
	ok(wait_idle($node), 'the next is delivered');
	is(sql("SELECT remembered->>'blob' ~ '^x+\$', remembered->'last' FROM chatwebhook.memory WHERE webhook_id = '$id'"), 't|1', 'what was there stays');
	is($note->(), q{not remembered: the conversation's memory would exceed 8 kB}, 'the attempt says so, although it was a success');
	emit('full', 'c1', { n => 3, blob => 'x' x 9000 });
	emit('full', 'c1', { n => 4, blob => [ map { JSON::PP::true } 1 .. 3 ] });
	ok(wait_idle($node), 'and the next two');
	like($note->(), qr/, not remembered: more than 8 kB$/, 'nor is more than that at once');
	is(sql("SELECT remembered FROM chatwebhook.memory WHERE webhook_id = '$id'"),
		'{"blob": [true, true, true], "last": 4, "thread": "full/c1"}', 'a smaller value takes its place');
	# 130 kB of digits in a few bytes
	emit('full', 'c1', '{"n": 5, "blob": 1e100000}');
	ok(wait_idle($node), 'a number of 100,000 digits is delivered');
	# 300 digits each in the table, and few as JavaScript writes them
	emit('full', 'c1', '{"n": 6, "blob": [' . join(', ', ('1e300') x 1000) . ']}');
	emit('full', 'c2', '{"n": 7, "blob": [' . join(', ', ('1e300') x 1000) . ']}');
	ok(wait_idle($node), 'a thousand of 300 digits as well');
	is(sql("SELECT remembered->'last' FROM chatwebhook.memory WHERE webhook_id = '$id' AND conversation_id = 'c1'"), 4, 'none of them is remembered');
	is(memory($id, 'c2'), '{"thread": "full/c2"}', 'nor where little else is');
	set('chatwebhook.log_attempts', 'all');

	# what settles with it is remembered
	my $many = webhook('many');
	emit('many', 'c0', { n => 0, blob => 'x' x 5000 });
	ok(wait_idle($node), 'a memory is nearly full');
	sql(q{SELECT count(chatwebhook.emit('webhook.test', 'many', 'c' || n, jsonb_build_object('n', n, 'other', repeat('y', 5000))))
		FROM generate_series(0, 19) AS n});
	ok(wait_idle($node), 'it is delivered with those of others');
	is(sql(qq{SELECT string_agg(concat(conversation_id, ' ', remembered->'last'), ', ' ORDER BY conversation_id COLLATE "C") FROM chatwebhook.memory
		WHERE webhook_id = '$many'}),
		join(', ', sort map { "c$_ $_" } 0 .. 19), 'the others are remembered');
	is(sql(qq{SELECT string_agg(DISTINCT e.conversation_id, ' ') FROM chatwebhook.attempt a JOIN chatwebhook.delivery d ON d.id = a.delivery_id
		JOIN chatwebhook.event e ON e.id = d.event_id WHERE a.webhook_id = '$many' AND a.note LIKE '%would exceed 8 kB'}),
		'c0', 'and only its attempt says that it is not');
	is(memory($many, 'c0') =~ /other/, '', 'it is as it was');
};

subtest 'a reply that is cut off' => sub {
	script(q{CREATE FUNCTION public.lax(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
		LANGUAGE sql STABLE AS $$ SELECT ROW('POST', NULL, NULL, '{}', true)::chatwebhook.request $$;
		INSERT INTO chatwebhook.connector (name, function, replies)
		VALUES ('lax', 'public.lax', '[{"status": 200, "remember": {"thread": "$.ts"}}]')});
	my $id = webhook('cut', connector => 'lax', path => '/big/300000');
	emit('cut', 'c1', {});
	ok(wait_idle($node), 'it is delivered, as no rule says what success looks like');
	is(sql("SELECT error, note FROM chatwebhook.attempt WHERE webhook_id = '$id'"),
		'|not remembered: the reply was cut off (raise chatwebhook.max_response_size)', 'the attempt says that nothing is remembered');
	is(memory($id), 'none', 'nothing is');
};

subtest 'erase_conversation' => sub {
	my $id = webhook('erased');
	emit('erased', 'c1', { n => 1 });
	emit('erased', 'c2', { n => 2 });
	ok(wait_idle($node), 'all are delivered');
	is(sql("SELECT chatwebhook.erase_conversation('erased', 'c1')"), 1, 'one event is erased');
	is(memory($id), 'none', 'with what was remembered of it');
	is(memory($id, 'c2'), '{"thread": "erased/c2"}', 'but not of another');

	# erased while a request is under way, it does not come back
	$receiver->set(down => ['erased-late']);
	my $late = webhook('late', path => '/hang-until-told/-/erased-late');
	emit('late', 'c1', { n => 1 });
	ok($receiver->wait_for(1, 'erased-late'), 'a request is under way');
	is(sql("SELECT chatwebhook.erase_conversation('late', 'c1')"), 1, 'its conversation is erased');
	$receiver->set(up => ['erased-late']);
	becomes_true("SELECT sum(in_flight) = 0 FROM chatwebhook.worker_status", 'the request has ended');
	emit('erased', 'c3', { n => 3 });
	ok(wait_idle($node), 'the worker has gone on');
	is(memory($late), 'none', 'nothing is remembered');

	# a transaction that has erased one and stays open holds up no other
	my $session = Session->new($node, 'postgres') or die $Session::error;
	$session->query('BEGIN');
	$session->query("SELECT chatwebhook.erase_conversation('erased', 'c2')");
	sql(q{UPDATE chatwebhook.connector SET replies = replies || '[{"status": 200, "path": "exists($.n)", "remember": {"last": "$.n"}}]' WHERE name = 'threads'});
	emit('erased', 'c2', { n => 4 });
	emit('erased', 'c3', { n => $_ }) foreach 5 .. 9;
	becomes_true(q{SELECT count(*) = 6 FROM chatwebhook.delivery d JOIN chatwebhook.event e ON e.id = d.event_id
		WHERE d.webhook_name = 'erased' AND e.conversation_id = 'c3' AND d.status = 'delivered'}, 'others go on');
	is(memory($id, 'c3'), '{"last": 9, "thread": "erased/c3"}', 'and remember');
	$session->query('COMMIT');
	$session->close;
	ok(wait_idle($node), 'once it is over, all are delivered');
};

subtest 'retention' => sub {
	sql("UPDATE chatwebhook.memory SET updated_at = now() - interval '2 days' WHERE conversation_id <> 'c3'");
	set('chatwebhook.retention', '1d');
	becomes_true(q{SELECT count(*) = 0 FROM chatwebhook.memory WHERE conversation_id <> 'c3'}, 'what has not changed for long is removed');
	is(sql('SELECT count(*) > 0 FROM chatwebhook.memory'), 't', 'the rest stays');
	set('chatwebhook.retention', '-1');
	sql('DELETE FROM chatwebhook.webhook');
	is(sql('SELECT count(*) FROM chatwebhook.memory'), 0, 'until its webhook is deleted');
};

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|Segmentation/, 'no process has crashed by itself');
end_sessions();
$node->stop;

#
# Several workers
#
$receiver = start_receiver();
$node = new_node('three', 'chatwebhook.workers' => 3, 'chatwebhook.connector_timeout' => '1min');
script(q{CREATE FUNCTION public.threads(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
	LANGUAGE sql STABLE AS $$
	SELECT CASE WHEN webhook->'memory'->'thread' IS NULL
	            THEN ROW('POST', NULL, NULL, jsonb_build_object('conversation', event->'conversationId', 'ts', event->>'conversationId'), false)::chatwebhook.request
	            ELSE ROW('POST', NULL, NULL, jsonb_build_object('conversation', event->'conversationId', 'n', event->'data'->'n',
	                     'thread', webhook->'memory'->'thread'), true)::chatwebhook.request
	       END $$;
	INSERT INTO chatwebhook.connector (name, function, replies) VALUES ('threads', 'public.threads',
		'[{"status": 200, "path": "exists($.conversation)", "means": "success", "remember": {"thread": "$.ts"}}]')});
my ($id) = create_webhook($node, name => 'threads', events => ['webhook.test'], 
	connector => 'threads', max_retries => 100, backoff => '10 ms', max_backoff => '50 ms',
	url => $receiver->url('/echo/-/threads'));
sql(q{SELECT count(chatwebhook.emit('webhook.test', 'shop', 'c' || n % 40, jsonb_build_object('n', n))) FROM generate_series(1, 400) n});
ok(wait_idle($node), 'with three workers, all are delivered');
my %seen;
push @{ $seen{ $_->{conversation} } }, $_ foreach bodies('threads');
is(scalar keys %seen, 40, '40 conversations');
my ($threads, $order, $thread) = (0, 0, 0);
foreach my $conversation (keys %seen)
{
	my @all = @{ $seen{$conversation} };
	my @messages = grep { defined $_->{n} } @all;
	my @numbers = map { $_->{n} } @messages;
	$threads++ if @all - @messages != 1 || defined $all[0]{n};
	$order++ if "@numbers" ne join ' ', sort { $a <=> $b } @numbers or @numbers != 10;
	$thread++ if grep { $_->{thread} ne $conversation } @messages;
}
is($threads, 0, 'each opens one thread, at first');
is($order, 0, 'each has its messages in order');
is($thread, 0, 'each in its own thread');
cmp_ok(sql(q{SELECT count(*) FROM chatwebhook.worker_status WHERE delivered > 0}), '>', 1, 'by more than one worker');
$node->stop;
done_testing();
