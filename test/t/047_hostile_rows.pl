# Rows that a customer, or whoever gets past the checks of SQL, could store to
# stop, swell or mislead the worker.
#
# Each hostile row belongs to a webhook that has something to deliver, beside a
# rival's.  Only a worker can show that the rival's goes on, by the same process,
# whose memory stays small; and what the row's owner is told.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# A worker's own memory, in the end and in between.
my $most_kb = 64 * 1024;

my $receiver = start_receiver();
my $node = new_node('main', 'chatwebhook.breaker_threshold' => 0);

# A webhook for the events of the chatbot of the same name; its id.
sub webhook
{
	my ($name, %columns) = @_;
	my ($id) = create_webhook($node, name => $name, chatbot_id => $name, max_retries => 0, %columns);
	return $id;
}

sub emit
{
	my ($name, $n) = @_;
	sql("SELECT count(chatwebhook.emit('conversation.ended', '$name', NULL, '{}')) FROM generate_series(1, "
		  . ($n // 1) . ')');
	return;
}

# Do this as nobody but a superuser, or replication, can: no trigger checks it.
sub past_the_checks
{
	my ($statement) = @_;
	script("SET session_replication_role = replica; $statement");
	return;
}

# The rival is served, by the same small worker.
webhook('rival');
my $served = 0;
becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'there is a worker');
my $worker = sql('SELECT pid FROM chatwebhook.worker_status');

sub rival_is_served
{
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	emit('rival');
	ok($receiver->wait_for(++$served, 'rival'), 'the rival is served');
	is(sql('SELECT pid FROM chatwebhook.worker_status'), $worker, 'by the same worker');
	# the most that it ever had, less what it shares
	my $status = slurp_file("/proc/$worker/status");
	my ($most, $shared) = map { $status =~ /^$_:\s+(\d+) kB/m ? $1 : 0 } 'VmHWM', 'RssShmem';
	cmp_ok($most - $shared, '<', $most_kb, 'which has stayed small');
	return;
}
rival_is_served();

# A webhook for this row: what is changed past the checks, what its problem is
# then, and with which columns it is made.
my $n = 0;

sub hostile
{
	my ($what, $statement, $problem, %columns) = @_;
	my $name = 'hostile-' . ++$n;
	my $id = webhook($name, %columns);

	subtest $what => sub {
		$statement =~ s/\bID\b/'$id'/g;
		past_the_checks($statement);
		emit($name);
		becomes_true("SELECT problem IS NOT NULL FROM chatwebhook.health WHERE webhook_id = '$id'",
			'it has a problem');
		like(sql("SELECT problem FROM chatwebhook.webhook_health WHERE webhook_id = '$id'"), $problem, 'which says why');
		is(sql("SELECT status FROM chatwebhook.delivery WHERE webhook_id = '$id'"), 'pending', 'what it is owed waits');
		is($receiver->count($name), 0, 'and is not sent');
		rival_is_served();
		my (undef, $out) = $node->psql('postgres', "SELECT success, error FROM chatwebhook.test_webhook('$id')");
		like($out, qr/^f\|/, 'test_webhook() fails as well');
		like($out, $problem, 'and says why');
	};
	return ($name, $id);
}

sub update
{
	my ($set) = @_;
	return "UPDATE chatwebhook.webhook SET $set WHERE id = ID";
}

my @slack = (connector => 'slack', path => '/ok');

#
# Size.  100 MB is a megabyte on disk.
#
my ($mended, $mended_id) = hostile('settings of 100 MB',
	update(q{settings = jsonb_build_object('a', repeat('x', 100000000))}), qr/^\S*its settings are too large/, @slack);
hostile('headers of 100 MB', update(q{headers = jsonb_build_object('a', repeat('x', 100000000))}),
	qr/its headers are too large/);
hostile('auth of 100 MB', update(q{auth = jsonb_build_object('type', repeat('x', 100000000))}),
	qr/its auth is too large/);
# in its query, which public_url leaves out: for so long a path its expressions take minutes
hostile('a URL of 100 MB', update(q{url = 'https://example.com/?' || repeat('x', 100000000)}), qr/its url is too long/);
hostile('a connector of 100 MB', update(q{connector = repeat('x', 100000000)}), qr/its connector is too long/);
hostile('3,000 credentials of 64 kB', q{
	INSERT INTO chatwebhook.vault (webhook_id, name, value)
	SELECT ID, 'c' || n, '\x00'::bytea || convert_to(repeat('x', 65536), 'UTF8') FROM generate_series(1, 3000) AS n},
	qr/it has too many credentials, or they are too large/);
hostile('60 small ones', q{
	INSERT INTO chatwebhook.vault (webhook_id, name, value)
	SELECT ID, 'c' || n, '\x0078' FROM generate_series(1, 60) AS n}, qr/it has too many credentials/);
hostile('one of 100 MB', q{
	INSERT INTO chatwebhook.vault (webhook_id, name, value)
	SELECT ID, 'c', '\x00'::bytea || convert_to(repeat('x', 100000000), 'UTF8')}, qr/it has too many credentials, or they are too large/);

subtest 'ten headers of 400 placeholders, which SQL lets in' => sub {
	my $id = webhook('bomb', credentials => { c => 'x' x 8192 },
		headers => { map { ("X-$_" => '{{c}}' x 400) } 1 .. 10 });
	emit('bomb');
	becomes_true("SELECT problem ~ 'filled in, a header is too long' FROM chatwebhook.health WHERE webhook_id = '$id'",
		'they are too long once they are filled in');
	rival_is_served();
	$id = webhook('sum', credentials => { c => 'x' x 8192 }, headers => { map { ("X-$_" => '{{c}}') } 1 .. 9 });
	emit('sum');
	becomes_true("SELECT problem ~ 'filled in, a header is too long' FROM chatwebhook.health WHERE webhook_id = '$id'",
		'or too long together');
	rival_is_served();
};

subtest 'a URL of 3,000 placeholders' => sub {
	my $id = webhook('url bomb', url => $receiver->url('/ok/-/url') . '?' . ('{{c}}' x 700), credentials => { c => 'x' x 8192 });
	emit('url bomb');
	becomes_true("SELECT problem ~ 'filled in, its url is too long' FROM chatwebhook.health WHERE webhook_id = '$id'",
		'it is too long once they are filled in');
	rival_is_served();
};

#
# What cannot be opened, or is of another kind than it should be.
#
hostile('a signing secret that is none', q{UPDATE chatwebhook.vault SET value = '\x01deadbeef' WHERE webhook_id = ID},
	qr/cannot open the secret "signing_secret"/);
hostile('an empty one', q{UPDATE chatwebhook.vault SET value = '' WHERE webhook_id = ID},
	qr/cannot open the secret "signing_secret"/);
hostile('headers that are an array', update(q{headers = '["a", {"b": "c"}]'}), qr/its headers cannot be sent: they are not an object/);
hostile('a scalar', update(q{headers = '"a"'}), qr/its headers cannot be sent/);
hostile('numbers', update(q{headers = '{"X-Team": 1}'}), qr/its headers cannot be sent: the value of "X-Team" is not a string/);
hostile('1,000 of them', update(q{headers = (SELECT jsonb_object_agg('X-' || n, 'x') FROM generate_series(1, 1000) AS n)}),
	qr/its headers cannot be sent: there are more than 50 headers/);
hostile('those of HTTP', update(q{headers = '{"Host": "rival"}'}), qr/its headers cannot be sent: "Host" is set by/);
hostile('line breaks', update(q{headers = '{"X-Team": "a\r\nX-Injected: 1"}'}), qr/its headers cannot be sent/);
hostile('settings that are a scalar', update(q{settings = '1'}), qr/its settings are not an object/, @slack);
hostile('auth that is a scalar', update(q{auth = '1'}), qr/its auth has no known type/);
hostile('of no type', update(q{auth = '{"type": "none"}'}), qr/its auth has no known type/);
hostile('auth with line breaks', update(q{auth = '{"type": "header", "name": "X-A\r\nX-Injected", "value": "1"}'}),
	qr/with its credentials filled in, its auth is not printable ASCII/);
my (undef, undef, $error) = $node->psql('postgres',
	q{SET session_replication_role = replica; UPDATE chatwebhook.webhook SET name = repeat('x', 100000)});
like($error, qr/violates check constraint/, 'a name of 100 kB gets past no check: alerts and messages show it');

# what cannot be foreseen
script(q{INSERT INTO chatwebhook.connector (name, function) VALUES ('odd', 'chatwebhook.slack(jsonb,jsonb,jsonb)')});
past_the_checks(q{UPDATE chatwebhook.connector SET replies = '[{"status": [1e100], "means": "retry"}]' WHERE name = 'odd'});
hostile('a connector that cannot be loaded', 'SELECT ID', qr/it could not be loaded: integer out of range/, connector => 'odd', path => '/ok');

#
# Lines that a credential breaks.
#
foreach my $case (
	[ 'a header', headers => { 'X-Key' => '{{c}}' } ],
	[ 'its auth', auth => { type => 'bearer', token => '{{c}}' } ],
	[ 'its auth', auth => { type => 'header', name => 'X-Key', value => '{{c}}' } ])
{
	my ($what, %columns) = @$case;
	hostile("a line break in $what", q{UPDATE chatwebhook.vault SET value = '\x00'::bytea || E'a\\015\\012X-Injected: 1'::bytea
		WHERE webhook_id = ID AND name = 'c'}, qr/with its credentials filled in, $what is not printable ASCII/,
		credentials => { c => 'x' }, %columns);
}
hostile('a key for TLS in a header', update(q{headers = '{"X-Key": "{{client_key}}"}'}) . q{;
	INSERT INTO chatwebhook.vault (webhook_id, name, value) VALUES (ID, 'client_key', '\x0078')},
	qr/the credential "client_key" is never part of a request/);

#
# Numbers out of range: they are brought into it.
#
foreach my $case (
	[ 'batch_size = 2000000000, batch_window = \'1 s\'', {}, 250 ],
	[ 'batch_size = -1', {} ],
	[ 'batch_size = 200', { @slack }, 120 ],
	[ 'max_in_flight = 0', {} ],
	[ 'max_in_flight = 2147483647', {} ],
	[ 'max_retries = -5', {} ],
	[ "timeout = '0'", {} ],
	[ "timeout = '-1 s'", {} ],
	[ "timeout = '170000 years'", {} ],
	[ "backoff = '-1 year', max_backoff = '-1 year', backoff_multiplier = 'NaN', max_retries = 100", { path => '/flaky/3' } ],
	[ "backoff = '10 ms', max_backoff = '10 ms', backoff_multiplier = '-infinity', max_retries = 2147483647", { path => '/flaky/3' } ],
	[ "retry_delays = '{NULL,-1 year,0}'", { path => '/flaky/3' } ],
	[ "retry_delays = '{{0,0},{0,0}}'", { path => '/flaky/3' } ],
	[ "retry_delays = array_fill(interval '0', ARRAY[150])", { path => '/flaky/3' } ],
	[ "rate_limit = 'NaN'", {} ],
	[ 'rate_limit = -1', {} ],
	[ 'rate_limit = 1e300', {} ],
	[ "batch_window = '-1 day', batch_size = 2", {} ])
{
	my ($set, $columns, $events) = @$case;
	my $name = 'number-' . ++$n;
	my $id = webhook($name, %$columns);

	subtest $set => sub {
		past_the_checks("UPDATE chatwebhook.webhook SET $set WHERE id = '$id'");
		emit($name, $events);
		becomes_true("SELECT count(*) = @{[ $events // 1 ]} FROM chatwebhook.delivery WHERE webhook_id = '$id' AND status = 'delivered'",
			'all is delivered');
		rival_is_served();
	};
}

subtest 'events that match nothing' => sub {
	my $id = webhook('patterns');
	foreach my $events ('{""}', '{}', '{NULL}', '{{"",""}}')
	{
		past_the_checks("UPDATE chatwebhook.webhook SET events = '$events' WHERE id = '$id'");
		emit('patterns');
		is(sql("SELECT count(*) FROM chatwebhook.delivery WHERE webhook_id = '$id'"), 0, "$events: nothing is owed");
	}
	rival_is_served();
};

subtest 'many hostile rows beside each other' => sub {
	# those that are well are loaded with those that are not
	my $rivals = webhook('crowd');
	sql("SELECT count(chatwebhook.create_webhook('crowd ' || n, '" . $receiver->url('/ok/-/crowd')
		. "', chatbot_id => 'crowd', connector => CASE n % 3 WHEN 0 THEN 'odd' ELSE 'slack' END)) FROM generate_series(1, 100) AS n");
	emit('crowd');
	becomes_true(q{SELECT count(*) = 68 FROM chatwebhook.delivery WHERE chatbot_id = 'crowd' AND status = 'delivered'},
		'those that are well are served');
	becomes_true(q{SELECT count(*) = 33 FROM chatwebhook.webhook_health WHERE problem ~ 'integer out of range' AND name LIKE 'crowd %'},
		'the others have a problem each');
	sql(q{DELETE FROM chatwebhook.webhook WHERE chatbot_id = 'crowd'});
	rival_is_served();
};

subtest 'a row that its owner mends' => sub {
	sql("UPDATE chatwebhook.webhook SET settings = '{}' WHERE id = '$mended_id'");
	ok($receiver->wait_for(1, $mended), 'what it is owed is sent');
	becomes_true("SELECT problem IS NULL FROM chatwebhook.webhook_health WHERE webhook_id = '$mended_id'", 'and it has no problem');
};

subtest 'a row that does not satisfy the checks can be disabled' => sub {
	my $id = webhook('gone', path => '/gone');
	past_the_checks("UPDATE chatwebhook.webhook SET max_retries = -5, events = '{no.such,*}' WHERE id = '$id'");
	emit('gone');
	becomes_true("SELECT NOT enabled AND disabled_at IS NOT NULL AND disabled_reason ~ '410' FROM chatwebhook.webhook WHERE id = '$id'",
		'it is disabled');
	is(sql("SELECT count(*) FROM chatwebhook.alert WHERE webhook_id = '$id' AND kind = 'webhook_disabled' AND closed_at IS NULL"),
		1, 'with an alert');
	rival_is_served();
};

#
# The administrator's bounds, lowered while the worker runs.
#
sub set
{
	my (%settings) = @_;
	foreach my $name (sort keys %settings)
	{
		sql("ALTER SYSTEM SET chatwebhook.$name = '$settings{$name}'");
	}
	$node->reload;
	wait_until("SELECT current_setting('chatwebhook.$_') = '$settings{$_}'") or die "$_ has not changed"
	  foreach sort keys %settings;
	return;
}

subtest 'bounds for customers' => sub {
	my $retried = webhook('retried', path => '/status/500', max_retries => 50, backoff => '10 ms', max_backoff => '10 ms');
	my $wide = webhook('wide', path => '/delay-ms/50', max_in_flight => 1024);
	webhook('hangs', path => '/hang', timeout => '5 minutes');
	my ($admins) = create_webhook($node, name => 'administrator', path => '/status/500', max_retries => 5, backoff => '10 ms',
		max_backoff => '10 ms', events => ['feedback.received']);
	# the worker has loaded them as they were
	emit('wide', 20);
	ok(wait_until(q{SELECT count(*) = 20 FROM chatwebhook.delivery WHERE chatbot_id = 'wide' AND status = 'delivered'}), 'at first');
	$receiver->reset;
	$served = 0;

	set(max_customer_retries => 2, max_customer_in_flight => 3, max_customer_timeout => '300ms');
	# the worker takes settings in its own time: the retries show when it has
	my $attempts = 0;
	foreach (1 .. 1000)
	{
		emit('retried');
		# what is owed to hostile rows stays
		wait_until(q{SELECT NOT EXISTS (SELECT FROM chatwebhook.queue WHERE chatbot_id = 'retried')}) or last;
		$attempts = sql(q{SELECT attempts FROM chatwebhook.dead_letter WHERE chatbot_id = 'retried' ORDER BY id DESC LIMIT 1});
		last if $attempts == 3;
	}
	is($attempts, 3, 'retries are those that the administrator allows');
	emit('hangs');
	ok(wait_until(q{SELECT count(*) = 1 FROM chatwebhook.dead_letter WHERE chatbot_id = 'hangs'}), 'so is the timeout');
	like(sql(q{SELECT last_error FROM chatwebhook.dead_letter WHERE chatbot_id = 'hangs'}), qr/timed out/, 'which says so');
	emit('wide', 100);
	ok(wait_until(q{SELECT count(*) = 120 FROM chatwebhook.delivery WHERE chatbot_id = 'wide' AND status = 'delivered'}), 'all is delivered');
	my ($most) = sort { $b <=> $a } map { $_->{concurrent} } $receiver->log('wide');
	cmp_ok($most, '<=', 3, 'by no more requests at a time than it allows');
	sql(q{SELECT chatwebhook.emit('feedback.received', NULL, NULL, '{"rating": 1}')});
	ok(wait_until(q{SELECT attempts = 6 FROM chatwebhook.dead_letter WHERE webhook_name = 'administrator'}),
		'a webhook of every chatbot has what its row says');
	rival_is_served();
};

subtest 'too much pending' => sub {
	set(max_customer_timeout => '5min');
	my $id = webhook('slow', path => '/hang-until-told', timeout => '5 minutes', max_in_flight => 1);
	my ($every) = create_webhook($node, name => 'every', path => '/hang-until-told', timeout => '5 minutes', max_in_flight => 1,
		events => ['feedback.received']);
	emit('slow', 50);
	sql(q{SELECT count(chatwebhook.emit('feedback.received', NULL, NULL, '{"rating": 1}')) FROM generate_series(1, 60)});
	# with this, the worker looks every second or so
	set(max_customer_pending => 50, retention => '1s');
	rival_is_served();
	ok(sql("SELECT enabled FROM chatwebhook.webhook WHERE id = '$id'") eq 't', 'as many as are allowed are');
	emit('slow');
	becomes_true("SELECT NOT enabled FROM chatwebhook.webhook WHERE id = '$id'", 'with one more it is disabled');
	like(sql("SELECT disabled_reason FROM chatwebhook.webhook WHERE id = '$id'"),
		qr/^more than 50 deliveries are pending \(chatwebhook\.max_customer_pending\)$/, 'with the reason');
	is(sql("SELECT count(*) FROM chatwebhook.alert WHERE webhook_id = '$id' AND kind = 'webhook_disabled' AND closed_at IS NULL"),
		1, 'and an alert');
	emit('slow', 10);
	is(sql("SELECT count(*) FROM chatwebhook.queue WHERE webhook_id = '$id'"), 51, 'no more are queued, and those that are stay');
	is(sql("SELECT enabled FROM chatwebhook.webhook WHERE id = '$every'"), 't', 'a webhook of every chatbot may have more');
	rival_is_served();
};

subtest 'a secret that has expired is gone' => sub {
	my $id = webhook('rotated');
	sql("SELECT chatwebhook.rotate_secret('$id', '1 hour')");
	past_the_checks("UPDATE chatwebhook.vault SET expires_at = now() - interval '1 s' WHERE webhook_id = '$id' AND name = 'previous_signing_secret'");
	becomes_true("SELECT string_agg(name, ',') = 'signing_secret' FROM chatwebhook.vault WHERE webhook_id = '$id'",
		'only the new one is in the vault');
};

unlike(join("\n", map { "$_->{path} @{[ %{ $_->{headers} } ]}" } $receiver->log), qr/injected/i, 'no request was broken');
is(sql("SELECT coalesce(last_error, '') FROM chatwebhook.worker_status"), '', 'the worker has had no error of its own');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process has crashed');
$node->stop;
done_testing();
