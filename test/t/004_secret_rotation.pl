# A secret is rotated, and receivers that know one secret lose nothing.
#
# Only receivers that refuse what their one secret has not signed, and change that
# secret at any moment while deliveries flow, can show that each delivery arrives
# within one attempt, and that finding out which secret is taken costs no more than
# one request, whatever the number of workers.
#
# CHATWEBHOOK_TEST_SEED repeats the random moments of an earlier run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node_program = $ENV{NODE} // 'node';
plan skip_all => "there is no Node.js ($node_program)"
  if !eval { IPC::Run::run([ $node_program, '--version' ], '>', \my $version, '2>', \my $error) };

my $seed = $ENV{CHATWEBHOOK_TEST_SEED} // int(rand(2**32));
diag("seed $seed");
srand($seed);

my ($node, $receiver);

# A server with so many workers, whose events come in conversations.
sub begin
{
	my ($workers) = @_;
	$node = new_node("workers_$workers",
		'chatwebhook.workers' => $workers,
		'chatwebhook.log_attempts' => 'all');
	sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.rotation')});
	becomes_true("SELECT count(*) = $workers FROM chatwebhook.worker_status", 'all workers are there');
	return;
}

sub emit
{
	my ($chatbot, $n) = @_;
	sql(qq{SELECT count(chatwebhook.emit('test.rotation', '$chatbot', NULL, jsonb_build_object('n', n, 'text', 'a < "b" \x{2028}')))
		FROM generate_series(1, $n) AS n});
	return 1;
}

sub webhook
{
	my ($name, %columns) = @_;
	return create_webhook($node, name => $name, chatbot_id => $name, events => ['test.rotation'], %columns);
}

sub rotate
{
	my ($id, $overlap) = @_;
	return sql(qq{SELECT chatwebhook.rotate_secret('$id', '$overlap')});
}

# The overlap ends now.
sub end_overlap
{
	my ($id) = @_;
	sql(qq{UPDATE chatwebhook.vault SET expires_at = clock_timestamp() WHERE webhook_id = '$id' AND name = 'previous_signing_secret'});
	return;
}

# How many requests a receiver has refused, or all of them.
sub refused
{
	my ($name) = @_;
	return scalar grep { $_->{status} != 200 } $receiver->log($name);
}

# All of a webhook's deliveries have arrived, once, in an attempt each.
sub all_arrived
{
	my ($name, $n) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	becomes_true(qq{SELECT pending = 0 FROM chatwebhook.webhook_health WHERE name = '$name'}, "$name: it is done");
	is(sql(qq{SELECT string_agg(status || ' ' || attempts || ' ' || n, ', ')
			FROM (SELECT status, attempts, count(*) AS n FROM chatwebhook.delivery WHERE webhook_name = '$name' GROUP BY 1, 2) d}),
		"delivered 1 $n", "$name: each was delivered in one attempt");
	# a worker leaves a row that another one has locked for later
	becomes_true(qq{SELECT total = $n AND failures = 0 FROM chatwebhook.webhook_health WHERE name = '$name'},
		"$name: which health has counted, and no failure");
	my %ids;
	$ids{ $_->{headers}{'webhook-id'} }++
	  foreach grep { $_->{status} == 200 && $_->{headers}{'x-webhook-event'} ne 'webhook.test' } $receiver->log($name);
	is(scalar(keys %ids), $n, "$name: all have arrived");
	is(scalar(grep { $_ > 1 } values %ids), 0, "$name: once");
	return;
}

# What a receiver is to know, and when: after so many requests.
sub flow
{
	my ($name, $in_flight, $workers) = @_;
	my ($id, $secret) = webhook($name, max_in_flight => $in_flight);
	my @thresholds = sort { $a <=> $b } map { 20 + int(rand(1900)) } 1 .. 6;
	emit($name, 2000);

	# the receiver changes its secret at once
	$receiver->wait_for($thresholds[0], $name);
	$receiver->set_secret($name, $secret = rotate($id, '1 hour'));
	# in the middle of the overlap
	$receiver->wait_for($thresholds[1], $name);
	my $next = rotate($id, '1 hour');
	$receiver->wait_for($thresholds[2], $name);
	$receiver->set_secret($name, $secret = $next);
	# and back, and on again
	$receiver->wait_for($thresholds[3], $name);
	$next = rotate($id, '1 hour');
	$receiver->wait_for($thresholds[4], $name);
	$receiver->set_secret($name, $next);
	# at its end
	$receiver->wait_for($thresholds[5], $name);
	$secret = rotate($id, '1 hour');
	emit($name, 100);
	becomes_true(qq{SELECT pending < 50 FROM chatwebhook.webhook_health WHERE name = '$name'}, "$name: the overlap is nearly over");
	$receiver->set_secret($name, $secret);
	end_overlap($id);

	all_arrived($name, 2100);
	# eight changes: four rotations, and four by the receiver
	my $refused = refused($name);
	note("$name: $refused refused, thresholds @thresholds");
	cmp_ok($refused, '<=', 8 * $in_flight * $workers, "$name: no more than what was under way was refused");
	return;
}

subtest 'the secret of one that knows one secret' => sub {
	$receiver = start_receiver(program => 'receiver.js', args => [ '--check' => 'signature' ]);
	begin(1);
	flow('one by one', 1, 1);
	flow('many at a time', 32, 1);
};

subtest 'what it costs' => sub {
	my ($id, $first) = webhook('costs', max_in_flight => 1);
	emit('costs', 1);
	all_arrived('costs', 1);
	my $second = rotate($id, '1 hour');
	emit('costs', 20);
	all_arrived('costs', 21);
	is(refused('costs'), 1, 'one request finds out that the receiver still has the old secret');
	is(sql(q{SELECT count(*) FROM chatwebhook.attempt a JOIN chatwebhook.webhook w ON w.id = a.webhook_id WHERE w.name = 'costs'}),
		21, 'which is no attempt of its own');
	is(sql(q{SELECT count(*) FROM chatwebhook.attempt a JOIN chatwebhook.webhook w ON w.id = a.webhook_id WHERE w.name = 'costs' AND a.status_code <> 200}),
		0, 'nor what the attempt ends with');
	my @both = ($receiver->log('costs'))[1, 2];
	is($both[0]{headers}{'webhook-signature'}, join(' ', reverse split / /, $both[1]{headers}{'webhook-signature'}),
		'webhook-signature lists both, first the new one, then the old one');
	is($both[0]{headers}{'webhook-timestamp'}, $both[1]{headers}{'webhook-timestamp'}, 'of the same time');
	is($both[0]{headers}{'x-webhook-attempt'}, $both[1]{headers}{'x-webhook-attempt'}, 'and the same attempt');
	isnt($both[0]{headers}{'x-webhook-signature'}, $both[1]{headers}{'x-webhook-signature'}, 'X-Webhook-Signature is another');

	sql(qq{UPDATE chatwebhook.webhook SET max_in_flight = 2 WHERE id = '$id'});
	emit('costs', 1);
	all_arrived('costs', 22);
	is(refused('costs'), 1, 'a change of the webhook does not make that forgotten');
	is(sql("SELECT success FROM chatwebhook.test_webhook('$id')"), 't', 'test_webhook() succeeds');
	is(refused('costs'), 1, 'and knows it, too');

	$receiver->set_secret('costs', $second);
	is(sql("SELECT success FROM chatwebhook.test_webhook('$id')"), 't', 'it succeeds with the new secret');
	is(refused('costs'), 2, 'by another request');
	emit('costs', 20);
	all_arrived('costs', 42);
	is(refused('costs'), 2, 'which finds that out for the worker');

	$receiver->set_secret('costs', $first);
	is(sql("SELECT success FROM chatwebhook.test_webhook('$id')"), 't', 'the receiver can go back');
	is(refused('costs'), 3, 'by another request again');
	end_overlap($id);
	$receiver->set_secret('costs', $second);
	emit('costs', 1);
	all_arrived('costs', 43);
	is(refused('costs'), 3, 'after the overlap, the new secret is the only one');
};

subtest 'both are refused' => sub {
	my ($id) = webhook('refuses', max_in_flight => 1);
	rotate($id, '1 hour');
	$receiver->set_secret('refuses', 'whsec_' . 'A' x 32);
	emit('refuses', 3);
	becomes_true(q{SELECT pending = 0 FROM chatwebhook.webhook_health WHERE name = 'refuses'}, 'it is done');
	is(sql(q{SELECT string_agg(DISTINCT status || ' ' || attempts || ' ' || last_status_code || ' ' || last_error, ', ')
			FROM chatwebhook.delivery WHERE webhook_name = 'refuses'}),
		'dead 1 401 HTTP status 401', 'all are dead, after one attempt each');
	is(sql(q{SELECT total || ' ' || failures FROM chatwebhook.webhook_health WHERE name = 'refuses'}), '3 3', 'each is counted once');
	is(refused('refuses'), 3 + 2 + 2, 'each secret was tried, and the first one again while nothing was known');
	is(sql("SELECT status_code FROM chatwebhook.test_webhook('$id')"), 401, 'a test says so');

	# without an overlap
	end_overlap($id);
	emit('refuses', 1);
	becomes_true(q{SELECT pending = 0 FROM chatwebhook.webhook_health WHERE name = 'refuses'}, 'it is done');
	is(refused('refuses'), 3 + 2 + 2 + 2 + 1, 'without an overlap, there is nothing else to try');
};

subtest 'rotated while a request is under way' => sub {
	my $own = start_receiver();
	foreach my $case ([ 'unchanged', undef, 1 ], [ 'no overlap', '0', 1 + 1 ], [ 'overlap', '1 hour', 1 + 3 ])
	{
		my ($name, $overlap, $requests) = @$case;
		my ($id) = webhook($name, receiver => $own, path => '/hang-until-told?status=403', timeout => '5 minutes');
		emit($name, 1);
		ok($own->wait_for(1, $name), "$name: a request is under way");
		rotate($id, $overlap) if defined $overlap;
		$own->set(up => [$name]);
		becomes_true(qq{SELECT dead = 1 FROM chatwebhook.webhook_health WHERE name = '$name'}, "$name: it is refused");
		is($own->count($name), $requests, "$name: after it was tried with what there was meanwhile");
		is(sql(qq{SELECT attempts FROM chatwebhook.dead_letter WHERE webhook_name = '$name'}), 1, "$name: in one attempt");
	}
	$own->stop;
	$Chatwebhook::last_receiver = $receiver;
};

subtest 'batches' => sub {
	my ($id) = webhook('batches', max_in_flight => 1, batch_size => 10);
	emit('batches', 300);
	$receiver->wait_for(5, 'batches');
	my $second = rotate($id, '1 hour');
	emit('batches', 300);
	$receiver->wait_for(20, 'batches');
	$receiver->set_secret('batches', $second);
	emit('batches', 300);
	becomes_true(q{SELECT pending = 0 FROM chatwebhook.webhook_health WHERE name = 'batches'}, 'it is done');
	is(sql(q{SELECT string_agg(DISTINCT status || ' ' || attempts, ', ') FROM chatwebhook.delivery WHERE webhook_name = 'batches'}),
		'delivered 1', 'each was delivered in one attempt');
	cmp_ok(refused('batches'), '<=', 3, 'a request for each change, and one that was under way');
	my %ids;
	foreach my $request (grep { $_->{status} == 200 } $receiver->log('batches'))
	{
		$ids{$_}++ foreach $request->{body} =~ /"id":"([^"]+)"/g;
	}
	is(scalar(keys %ids), 900, 'all have arrived');
	is(scalar(grep { $_ > 1 } values %ids), 0, 'once');
	$node->stop;
};

subtest 'several workers' => sub {
	begin(3);
	my ($id) = webhook('at rest');
	my $n = 0;
	foreach my $round (1 .. 3)
	{
		my $next = rotate($id, '1 hour');
		# a worker that does not know of the rotation yet still signs with what is taken
		foreach my $try (1 .. 5)
		{
			emit('at rest', 1) && all_arrived('at rest', ++$n);
			last if refused('at rest') > 2 * $round - 2;
		}
		emit('at rest', 300) && all_arrived('at rest', $n += 300);
		is(refused('at rest'), 2 * $round - 1, 'after a rotation, one worker finds out for all');
		$receiver->set_secret('at rest', $next);
		emit('at rest', $_) && all_arrived('at rest', $n += $_) foreach 1, 300;
		is(refused('at rest'), 2 * $round, 'as it does after the receiver has changed its secret');
	}
	is(sql(q{SELECT count(*) > 1 FROM chatwebhook.worker_status WHERE delivered > 0}), 't', 'more than one has delivered');
	flow("one by one, $_ of 3", 1, 3) foreach 1 .. 3;
	flow('many at a time, 3 workers', 32, 3);
};

subtest 'one secret in Standard Webhooks' => sub {
	my $modules = $ENV{CHATWEBHOOK_NODE_MODULES};
	$receiver = start_receiver(
		program => 'receiver.js',
		args => [
			'--check' => 'standard',
			$modules ? ('--check' => 'package', '--modules' => $modules) : () ]);
	note('without the package standardwebhooks') if !$modules;
	my ($id) = webhook('standard');
	emit('standard', 1000);
	$receiver->wait_for(300, 'standard');
	my $second = rotate($id, '1 hour');
	emit('standard', 500);
	$receiver->wait_for(1000, 'standard');
	$receiver->set_secret('standard', $second);
	emit('standard', 500);
	all_arrived('standard', 2000);
	# what was under way when it was rotated has the old one only
	is(scalar(grep { $_->{status} != 200 && $_->{headers}{'webhook-signature'} =~ / / } $receiver->log('standard')), 0,
		'a request with both signatures is never refused');
};

$node->stop;
done_testing();
