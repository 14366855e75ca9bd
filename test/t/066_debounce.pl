# Of many deliveries about one conversation, the last.
#
# Only workers can show that a burst makes one request once it is quiet, or has
# lasted too long; that the last state arrives whatever else happens: a rollback, an
# early emit that is committed late, a failing receiver, a crash, several workers;
# and that sessions that emit wait for none of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $receiver = start_receiver();
my $node = new_node('main', 'chatwebhook.workers' => 2, 'chatwebhook.breaker_threshold' => 0,
	max_prepared_transactions => 2);
my $json = JSON::PP->new;

# A webhook of its own event type.
sub webhook
{
	my ($name, %columns) = @_;
	my $events = delete $columns{events} // ["test.$name"];
	sql(qq{INSERT INTO chatwebhook.event_type (name) VALUES ('$_') ON CONFLICT DO NOTHING}) foreach @$events;
	create_webhook($node, name => $name, events => $events, debounce => '1 s', %columns);
	return;
}

# Emit events of it, numbered.
sub emit
{
	my ($name, $from, $to, $conversation) = @_;
	$to //= $from;
	$conversation //= 'c';
	sql(qq{SELECT count(chatwebhook.emit('test.$name', 'bot', '$conversation', jsonb_build_object('n', n)))
		FROM generate_series($from, $to) n});
	return;
}

# The numbers that have arrived, in that order; of a conversation, or all.
sub arrived
{
	my ($label, $conversation) = @_;
	my @events = map { my $body = $json->decode($_->{body}); ref $body eq 'ARRAY' ? @$body : $body } $receiver->log($label);
	@events = grep { $_->{conversationId} eq $conversation } @events if defined $conversation;
	return join ' ', map { $_->{data}{n} } @events;
}

sub outcomes
{
	my ($name) = @_;
	return sql(qq{SELECT string_agg(status, ' ' ORDER BY id) FROM chatwebhook.delivery WHERE webhook_name = '$name'});
}

subtest 'a burst' => sub {
	webhook('burst');
	my $start = time;
	emit('burst', 1, 3);
	ok($receiver->wait_for(1, 'burst'), 'something arrives');
	cmp_ok(($receiver->log('burst'))[0]{time}, '>=', $start + 1, 'once it is quiet');
	ok(wait_idle($node), 'nothing is left');
	is(arrived('burst'), '3', 'the last');
	is(outcomes('burst'), 'canceled canceled delivered', 'the others are canceled');
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery c JOIN chatwebhook.delivery d
			ON c.last_error = 'superseded by delivery ' || d.id WHERE c.status = 'canceled' AND d.status = 'delivered'}),
		'2', 'superseded by that one');
	is(sql(q{SELECT total || ' ' || failures FROM chatwebhook.webhook_health WHERE name = 'burst'}), '1 0', 'which fails nothing');
	emit('burst', 4);
	ok(wait_idle($node), 'another one');
	is(arrived('burst'), '3 4', 'is a burst of its own');
};

subtest '10,000 emits' => sub {
	webhook('many', debounce => '3 s');
	script(join '', map { "SELECT chatwebhook.emit('test.many', 'bot', 'c', '{\"n\": $_}');\n" } 1 .. 5000);
	emit('many', 5001, 10000);
	ok(wait_idle($node), 'all is done');
	my @arrived = split / /, arrived('many');
	cmp_ok(scalar @arrived, '<=', 2, 'at most two requests');
	is($arrived[-1], 10000, 'the last state in the last of them');
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name = 'many' AND status = 'canceled'}),
		10000 - @arrived, 'all others are superseded');
};

subtest 'without a pause' => sub {
	webhook('steady', debounce => '500 ms');
	my $start = time;
	my $n = 0;
	until ($receiver->count('steady') >= 2)
	{
		die "nothing arrives\n" if time > $start + $PostgreSQL::Test::Utils::timeout_default;
		emit('steady', ++$n);
		sleep 0.02;
	}
	my @times = map { $_->{time} - $start } $receiver->log('steady');
	cmp_ok($times[0], '>=', 2.4, 'not before five times as long');
	cmp_ok($times[1] - $times[0], '>=', 2.4, 'nor the next, whose burst begins after it');
	ok(wait_idle($node), 'the rest is sent');
	is((split / /, arrived('steady'))[-1], $n, 'the last state in the end');
};

subtest 'conversations, types, chatbots and webhooks by themselves' => sub {
	webhook('apart', events => [ 'test.apart', 'test.other' ]);
	create_webhook($node, name => 'beside', events => ['test.apart'], debounce => '0');
	emit('apart', 1, 2);
	emit('apart', 11, 12, 'd');
	sql(q{SELECT chatwebhook.emit('test.apart', 'other', 'c', jsonb_build_object('n', 21))});
	sql(q{SELECT chatwebhook.emit('test.apart', NULL, 'c', jsonb_build_object('n', n)) FROM generate_series(31, 32) n});
	sql(q{SELECT chatwebhook.emit('test.other', 'bot', 'c', jsonb_build_object('n', 41))});
	sql(q{SELECT count(chatwebhook.emit('test.other', 'bot', NULL, jsonb_build_object('n', n))) FROM generate_series(51, 52) n});
	sql(q{SELECT chatwebhook.emit('test.other', 'bot', repeat('x', 2001), jsonb_build_object('n', 61))});
	sql(q{SELECT count(chatwebhook.emit('test.other', 'bot', 'c', jsonb_build_object('n', n), deliver_at => clock_timestamp() + '10 ms'::interval))
		FROM generate_series(71, 72) n});
	ok(wait_idle($node), 'all is done');
	is(join(' ', sort { $a <=> $b } split / /, arrived('apart')), '2 12 21 32 41 51 52 61 71 72',
		'the last of each; all without a conversation, or with a time of their own');
	is(join(' ', sort { $a <=> $b } split / /, arrived('beside')), '1 2 11 12 21 31 32', 'all where nothing is debounced');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'beside'});
};

subtest 'rolled back, and committed late' => sub {
	webhook('late');
	emit('late', 1);
	script(q{BEGIN; SELECT chatwebhook.emit('test.late', 'bot', 'c', '{"n": 2}'); ROLLBACK});
	ok(wait_idle($node), 'all is done');
	is(arrived('late'), '1', 'what was rolled back supersedes nothing');
	script(q{BEGIN; SELECT chatwebhook.emit('test.late', 'bot', 'c', '{"n": 3}'); PREPARE TRANSACTION 'early'});
	emit('late', 4);
	ok($receiver->wait_for(2, 'late'), 'what is not committed holds nothing back');
	sql(q{COMMIT PREPARED 'early'});
	ok(wait_idle($node), 'all is done');
	is(arrived('late'), '1 4 3', 'nor is it lost when it comes late');
	while_all_stopped(sub {
		script(q{BEGIN; SELECT chatwebhook.emit('test.late', 'bot', 'c', '{"n": 5}'); PREPARE TRANSACTION 'early'});
		emit('late', 6);
		sql(q{COMMIT PREPARED 'early'});
	});
	ok(wait_idle($node), 'all is done');
	is(arrived('late'), '1 4 3 6', 'but superseded by what was emitted later and is still there');
};

# Run a sub while no worker claims anything.
sub while_all_stopped
{
	my ($what) = @_;
	sql('ALTER SYSTEM SET chatwebhook.enabled = off');
	$node->reload;
	wait_until(q{SELECT current_setting('chatwebhook.enabled') = 'off'}) or die;
	$what->();
	sql('ALTER SYSTEM RESET chatwebhook.enabled');
	$node->reload;
	return;
}

subtest 'while one is under way' => sub {
	webhook('flight', path => '/hang-until-told', timeout => '1 minute', backoff => '1 h', max_backoff => '1 h');
	emit('flight', 1);
	ok($receiver->wait_for(1, 'flight'), 'one is under way');
	emit('flight', 2, 3);
	# they are due, and looked at, long before that one ends
	wait_until(q{SELECT bool_and(next_attempt_at < clock_timestamp() - '1 s'::interval) FROM chatwebhook.delivery WHERE webhook_name = 'flight' AND attempts = 0
			AND status = 'pending'})
	  or die;
	is($receiver->count('flight'), 1, 'the next waits for it');
	$receiver->set(up => ['flight']);
	ok(wait_idle($node), 'it ends');
	is(arrived('flight'), '1 3', 'and the last one goes');

	$receiver->set(down => ['flight']);
	sql(q{UPDATE chatwebhook.webhook SET url = replace(url, 'hang', 'down') WHERE name = 'flight'});
	emit('flight', 4);
	becomes_true(q{SELECT count(*) = 1 FROM chatwebhook.delivery WHERE webhook_name = 'flight' AND status = 'pending' AND attempts = 1},
		'one has failed, and is to be tried again in an hour');
	$receiver->set(up => ['flight']);
	emit('flight', 5);
	ok(wait_idle($node), 'which is not awaited');
	is(arrived('flight'), '1 3 4 5', 'since a later one supersedes it');
};

subtest 'ordered' => sub {
	webhook('order', events => [ 'test.order', 'test.order2' ], ordered => 't', path => '/fail/1/then/ok', backoff => '1500 ms');
	emit('order', 1, 2);
	emit('order2', 11, 12);
	emit('order', 3);
	ok($receiver->wait_for(2, 'order'), 'one has failed');
	emit('order', 4);
	ok(wait_idle($node), 'all is done');
	# either worker can have let its burst go first
	like(arrived('order'), qr/^(?:12 12 3 4|(?:3 ){1,2}12 4)$/, 'one after another, across types');
	is((max map { $_->{concurrent} } $receiver->log('order')), 1, 'never two at once');
};

subtest 'batches' => sub {
	webhook('batch', batch_size => 10, batch_window => '2 s');
	emit('batch', 2 * $_ - 1, 2 * $_, "c$_") foreach 1 .. 10;
	ok(wait_idle($node), 'all is done');
	is(join(' ', sort { $a <=> $b } split / /, arrived('batch')), join(' ', map { 2 * $_ } 1 .. 10), 'the last of each conversation');
	cmp_ok($receiver->count('batch'), '<', 10, 'some of them together');
};

subtest 'many conversations, two workers, a crash' => sub {
	webhook('crowd', debounce => '500 ms', path => '/delay-ms/20');
	my $conversations = 300;
	foreach my $round (1 .. 5)
	{
		sql(qq{SELECT count(chatwebhook.emit('test.crowd', 'bot', 'c' || c, jsonb_build_object('n', n)))
			FROM generate_series(1, $conversations) c, generate_series($round * 10, $round * 10 + 9) n});
		next if $round != 3;
		$receiver->wait_for(20, 'crowd') or die;
		$node->stop('immediate');
		$node->start;
	}
	ok(wait_idle($node), 'all is done');
	my (%last, %went_back);
	foreach my $request ($receiver->log('crowd'))
	{
		my $event = $json->decode($request->{body});
		my ($c, $n) = ($event->{conversationId}, $event->{data}{n});
		$went_back{$c} = 1 if $n < ($last{$c} // 0);
		$last{$c} = $n;
	}
	is(scalar(grep { $_ == 59 } values %last), $conversations, 'the last state of each arrives');
	is(join(' ', keys %went_back), '', 'and none after a later one');
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name = 'crowd' AND status NOT IN ('delivered', 'canceled')}),
		'0', 'nothing else becomes of them');
};

subtest 'changes' => sub {
	webhook('change', debounce => '1 h');
	emit('change', 1, 1200);
	sql(q{UPDATE chatwebhook.webhook SET debounce = NULL WHERE name = 'change'});
	ok(wait_idle($node), 'when nothing is debounced any more, nothing is held');
	is(arrived('change'), '1200', 'the last was sent');
	sql(q{UPDATE chatwebhook.webhook SET debounce = '1 h' WHERE name = 'change'});
	emit('change', 1201, 1203);
	is(sql(q{SELECT chatwebhook.retry(min(id)) FROM chatwebhook.delivery WHERE webhook_name = 'change' AND status = 'pending'}), 't',
		'retry()');
	ok($receiver->wait_for(2, 'change'), 'sends one now');
	is(arrived('change'), '1200 1201', 'that one');
	is(sql(q{SELECT chatwebhook.cancel(max(id)) FROM chatwebhook.delivery WHERE webhook_name = 'change' AND status = 'pending'}), 't',
		'cancel() takes the last');
	sql(q{UPDATE chatwebhook.webhook SET debounce = '0' WHERE name = 'change'});
	ok(wait_idle($node), 'all is done');
	is(arrived('change'), '1200 1201 1202', 'and the one before is the last then');
	sql(q{UPDATE chatwebhook.webhook SET debounce = '1 h' WHERE name = 'change'});
	emit('change', 1204, 1206);
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'change'});
	is(sql(q{SELECT count(*) FROM chatwebhook.queue}), '0', 'with the webhook, all of them go');
};

subtest 'locked by another session' => sub {
	webhook('locked');
	foreach my $which ('min', 'max')
	{
		my $n = $which eq 'min' ? 1 : 11;
		emit('locked', $n, $n + 2);
		my $session = $node->background_psql('postgres');
		$session->query_safe(qq{BEGIN});
		$session->query_safe(qq{SELECT id FROM chatwebhook.queue
			WHERE id = (SELECT $which(q.id) FROM chatwebhook.queue q) FOR UPDATE});
		webhook("beside $which", events => ['test.beside']);
		emit('beside', 1, 2);
		ok($receiver->wait_for(1, "beside $which"), "$which: others do not wait");
		is(arrived('locked', 'c'), $which eq 'min' ? '' : '3', "$which: it does");
		# due before the worker looks again
		sql(q{SELECT chatwebhook.emit('test.locked', 'bot', 'scheduled', '{"n": 0}', deliver_at => clock_timestamp() + '100 ms'::interval)});
		$receiver->wait_until(sub { arrived('locked', 'scheduled') eq ($which eq 'min' ? '0' : '0 0') }) or die;
		$session->query_safe('ROLLBACK');
		$session->quit;
		sql(qq{DELETE FROM chatwebhook.webhook WHERE name = 'beside $which'});
		ok(wait_idle($node), "$which: until the lock is released");
		is((split / /, arrived('locked', 'c'))[-1], $n + 2, "$which: then the last goes");
	}
};

is(sql(q{SELECT count(*) FROM chatwebhook.worker_status WHERE last_error IS NOT NULL}), '0', 'no worker has met an error');
my @errors = grep { /^\S+ \S+ \S+ \[\d+\] (ERROR|WARNING|PANIC):/ } split /\n/, slurp_file($node->logfile);
is("@errors", '', 'nor the log');
$node->stop;
done_testing();
