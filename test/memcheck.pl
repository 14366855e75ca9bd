# Thousands of deliveries, ending in every way there is, with the server under
# valgrind: nothing is read or written that should not be, and nothing is kept.
#
# Only scripts/memcheck runs this: it arranges for a server under valgrind, and
# says where its logs are (MEMCHECK_LOGS) and where our source is
# (MEMCHECK_SOURCE).  What counts is an error with a function of ours in its
# stack.  PostgreSQL's own allocator is, to valgrind, a user of malloc like any
# other: it sees every block of libcurl and OpenSSL, but of what is palloc'd the
# bounds of the blocks only.  That palloc'd memory does not grow is what
# PostgreSQL's own account of it says.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $logs = $ENV{MEMCHECK_LOGS} // die "run scripts/memcheck\n";
my $source = $ENV{MEMCHECK_SOURCE};
my $wanted = $ENV{DELIVERIES} // 2000;

# By so much may a worker's memory differ between half of the deliveries and
# all: the first with valgrind's own.  A byte kept for each request would be 1 kB
# of the second.
my $growth_kb = 8192;
my $palloc_tolerance = 16384;

my $json = JSON::PP->new->canonical->ascii;
my $services = start_services();
my $tls = start_receiver(tls => 1);
my $stranger = start_receiver(tls => 1);
my $closed = start_receiver();
my $nobody = $closed->url('/ok');
$closed->stop;
my $receiver = start_receiver();

my $node = new_node(
	'main',
	'chatwebhook.max_in_flight' => 64,
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.connector_timeout' => '1s',
	'chatwebhook.max_response_size' => '10kB',
	'chatwebhook.ca_file' => $tls->ca_file,
	'chatwebhook.disable_after' => '-1',
	'chatwebhook.alert_failures' => 5,
	'authentication_timeout' => '5min',
	'autovacuum' => 'off');

#
# What there is to send to.  By name: the path or the URL, how a delivery ends,
# and the columns of the webhook.
#
my $delivered = qr/^delivered$/;
my %short = (timeout => '300 ms');
my %classes = (
	ok => [ '/ok', $delivered ],
	echo => [ '/echo', $delivered, headers => { 'X-Key' => '{{key}}' }, credential => [ key => 'of it' ] ],
	v1a => [ '/ok', $delivered, signing => 'v1a' ],
	empty => [ '/empty', $delivered ],
	ordered => [ '/flaky/1', $delivered, ordered => 't' ],
	limited => [ '/ok', $delivered, rate_limit => 20 ],
	batched => [ '/ok', $delivered, batch_size => 5 ],
	# a batch that is put together anew is refused once more
	batched_late => [ '/flaky/1', $delivered, max_retries => 5, batch_size => 4, batch_window => '100 ms', signing => 'v1a' ],
	batched_bad => [ '/status/500', qr/^dead.*500/, batch_size => 5 ],
	filtered => [ '/ok', $delivered, filter => '$.data.role == "bot"' ],
	tls => [ $tls->url('/ok'), $delivered ],
	tls_closed => [ $tls->url('/close'), $delivered ],
	tls_eof => [ $tls->url('/eof'), qr/^dead/ ],
	tls_stranger => [ $stranger->url('/ok'), qr/^dead.*certificate/i ],
	tls_none => [ $receiver->url('/ok') =~ s/^http/https/r, qr/^dead/, %short ],
	close => [ '/close', $delivered ],
	stale => [ '/stale', $delivered ],
	chunked => [ '/chunked', $delivered ],
	interim => [ '/interim/3', $delivered ],
	nul => [ '/nul', $delivered ],
	nul_header => [ '/nul-header', qr/^(?:dead|delivered)/ ],
	many_headers => [ '/many-headers?n=200', qr/^(?:dead|delivered)/ ],
	long_header => [ '/long-header/200000', qr/^(?:dead|delivered)/ ],
	trailers => [ '/trailers', qr/^(?:dead|delivered)/, %short ],
	big => [ '/big/1000000', $delivered ],
	endless => [ '/endless', qr/^(?:dead|delivered)/, %short ],
	gzip => [ '/gzip/100000', $delivered ],
	redirect => [ '/redirect', qr/^dead.*302/ ],
	refused => [ '/status/400', qr/^dead.*400/ ],
	missing => [ '/status/404', qr/^dead.*404/ ],
	busy => [ '/status/429?retry_after=0', qr/^dead.*429/ ],
	busy_date => [ '/status/503?retry_after_date=0', qr/^dead.*503/ ],
	busy_odd => [ '/status/429?retry_after=never', qr/^dead.*429/ ],
	broken => [ '/status/500', qr/^dead.*500/ ],
	gone => [ '/gone', qr/^dead.*410/, n => 1 ],
	reset => [ '/reset', qr/^dead/ ],
	reset_late => [ '/reset-mid-body', qr/^dead/ ],
	eof => [ '/eof', qr/^dead/ ],
	garbage => [ '/garbage', qr/^dead/ ],
	hang => [ '/hang', qr/^dead.*timed out/, timeout => '100 ms' ],
	slow_headers => [ '/slow-headers/5', qr/^dead/, %short ],
	slow_body => [ '/slow-body/5', qr/^dead/, %short ],
	closed => [ $nobody, qr/^dead.*refused/ ],
	unknown => [ 'http://receiver.invalid/', qr/^dead.*could not resolve/ ],
	blocked => [ '{{where}}', qr/^dead.*link-local/, credential => [ where => 'http://169.254.10.20/' ] ],
	no_credential => [ '/ok', $delivered, auth => { type => 'bearer', token => '{{absent}}' } ],
	oauth_refused => [ '/ok', qr/^dead/,
		auth => { type => 'oauth2', token_url => $services->url('/zendesk/oauth/tokens'), client_id => 'nobody' },
		credential => [ client_secret => 'wrong' ] ],
	oauth_hangs => [ '/ok', qr/^dead/, %short, n => 2,
		auth => { type => 'oauth2', token_url => $receiver->url('/hang'), client_id => 'x' },
		credential => [ client_secret => 'x' ] ],
	oauth_odd => [ '/ok', qr/^dead/,
		auth => { type => 'oauth2', token_url => $receiver->url('/nul'), client_id => 'x' },
		credential => [ client_secret => 'x' ] ],
	c_raises => [ '/ok', qr/^dead.*out of luck/ ],
	c_sleeps => [ '/ok', qr/^dead.*longer/, n => 1, once => 1 ],
	c_method => [ '/ok', qr/^dead.*method/ ],
	c_url => [ '/ok', qr/^dead.*URL/ ],
	c_headers => [ '/ok', qr/^dead.*header/ ],
	c_endless => [ '/ok', qr/^dead.*more than/, n => 1, once => 1 ],
	c_steps => [ '/echo', $delivered ],
	c_fails => [ '/reset', qr/^dead/ ]);

# Connectors, some of them at fault.
my %connectors = (
	c_raises => [ plpgsql => q{BEGIN RAISE EXCEPTION 'out of luck'; END} ],
	c_sleeps => [ sql => q{SELECT ROW(NULL, NULL, NULL, to_jsonb(pg_sleep(1000)::text), true)::chatwebhook.request} ],
	c_method => [ sql => q{SELECT ROW('FROB', NULL, NULL, '{}', true)::chatwebhook.request} ],
	c_url => [ sql => q{SELECT ROW(NULL, 'not a url', NULL, '{}', true)::chatwebhook.request} ],
	c_headers => [ sql => q{SELECT ROW(NULL, NULL, '{"X-A": {}}', '{}', true)::chatwebhook.request} ],
	c_endless => [ sql => q{SELECT ROW(NULL, NULL, NULL, '{}', false)::chatwebhook.request} ],
	c_steps => [ sql => q{SELECT ROW(NULL, NULL, '{"X-Step": "a"}', jsonb_build_object('last', replies->-1, 'data', event->'data'),
		jsonb_array_length(replies) = 2)::chatwebhook.request} ],
	c_fails => [ sql => q{SELECT ROW('PUT', webhook->>'url' || '?a=b', NULL, event, true)::chatwebhook.request} ]);

# The services, with what each wants to know.
my %known = map { $_ => $services->credentials($_) } qw(slack discord hubspot salesforce zendesk pagerduty);
sub oauth
{
	my ($service, $path) = @_;
	return {
		type => 'oauth2',
		token_url => $services->url("/$service$path"),
		client_id => $known{$service}{client_id},
		$service eq 'zendesk' ? (scope => 'read write') : () };
}
my %services = (
	hubspot => [ '', { type => 'bearer', token => '{{access_token}}' }, 'access_token', { deal => JSON::PP::true } ],
	salesforce => [ '', oauth('salesforce', '/services/oauth2/token'), 'client_secret', {} ],
	zendesk => [ '', oauth('zendesk', '/oauth/tokens'), 'client_secret', {} ],
	pagerduty => [ '/v2/enqueue', { type => 'body', name => 'routing_key', value => '{{routing_key}}' }, 'routing_key', {} ]);
foreach my $service (sort keys %services)
{
	my ($path, $auth, $credential, $settings) = @{ $services{$service} };
	foreach my $fault ('', '_wrong')
	{
		$classes{"$service$fault"} = [
			$services->url("/$service$path"), $fault ? qr/^dead/ : $delivered,
			connector => $service,
			auth => $auth,
			settings => $settings,
			credential => [ $credential, $fault ? 'wrong' x 8 : $known{$service}{$credential} ],
			n => 2,
			$fault ? (once => 1) : () ];
	}
}
# of which it is enough that they were tried: these services take any URL
foreach my $service (qw(slack discord))
{
	$classes{$service} = [ '/ok', qr/^(?:dead|delivered)/, connector => $service ];
}

# The event for a class, and its data.
my %events = (
	(map { $_ => [ 'lead.captured', { email => 'ada@example.com', name => 'Ada', company => 'Engines', source => 'widget',
		conversationSummary => 'Wants a price.' } ] } qw(hubspot salesforce)),
	(map { $_ => [ 'handoff.requested', { reason => 'A price', urgency => 'high', visitorEmail => 'ada@example.com',
		visitorName => 'Ada', conversationHistory => [ { role => 'user', content => 'How much?' } ] } ] } qw(zendesk pagerduty)));
my $usual = [ 'message.sent', { role => 'bot', content => "Zo\x{eb} \x{1F600} " x 20 } ];

my $arguments = '(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request';
script(join '', map {
	my ($language, $body) = @{ $connectors{$_} };
	"CREATE FUNCTION public.$_$arguments LANGUAGE $language STABLE AS \$\$ $body \$\$;
	 INSERT INTO chatwebhook.connector (name, function, description) VALUES ('$_', 'public.$_', 'A test');"
} sort keys %connectors);

# SQL that creates a webhook.  It gets the events of the chatbot of its name.
sub webhook_sql
{
	my ($name, $where, %columns) = @_;
	my $credential = delete $columns{credential};
	delete @columns{ 'n', 'once' };
	$columns{url} = $where =~ m{^/} ? $receiver->url($where) : $where;
	%columns = (name => $name, chatbot_id => $name, events => ['*'], max_retries => 1, backoff => '10 ms', %columns);
	$columns{connector} = $name if $connectors{$name};
	my $create = 'SELECT ' . ($credential ? "chatwebhook.set_credential(id, '$credential->[0]', '$credential->[1]')" : 'id')
	  . ' FROM chatwebhook.create_webhook('
	  . join(', ', map { "$_ => " . literal($columns{$_}) } sort keys %columns) . ');';
	return $create;
}

sub emit_sql
{
	my ($name, $n) = @_;
	my ($type, $data) = @{ $events{ $name =~ s/_wrong$//r } // $usual };
	return "SELECT count(chatwebhook.emit('$type', '$name', 'c' || i % 3, " . literal($json->encode($data))
	  . ")) FROM generate_series(1, $n) i;";
}

# What the worker has to have read before anything else.
sql(webhook_sql('mark', '/ok/-/mark'));
my $marks = 0;
sub worker_is_there
{
	sql(emit_sql('mark', 1));
	return ok($receiver->wait_for(++$marks, 'mark'), 'the worker is there');
}

sub worker_pid
{
	$node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM chatwebhook.worker_status')
	  or die "there is no worker\n";
	return sql('SELECT pid FROM chatwebhook.worker_status');
}

#
# A round: webhooks of all classes, their events, and the end of it
#
my ($deliveries, %seen) = (0);
sub settle
{
	# what wants a credential waits until it is there
	becomes_true(q{SELECT count(*) = 0 FROM chatwebhook.delivery WHERE status = 'pending' AND webhook_name <> 'no_credential'},
		'all else is finished');
	sql(q{SELECT chatwebhook.set_credential(id, 'absent', 'here') FROM chatwebhook.webhook WHERE name = 'no_credential'});
	ok(wait_idle($node), 'the worker is done');
	foreach my $line (split /\n/, sql(q{SELECT webhook_name, concat_ws(' ', status, last_error), count(*)
		FROM chatwebhook.delivery WHERE webhook_name <> 'mark' AND webhook_id IN (SELECT id FROM chatwebhook.webhook) GROUP BY 1, 2}))
	{
		my ($name, $outcome, $n) = $line =~ /^(\w+)\|(.*)\|(\d+)$/ or next;
		$deliveries += $n;
		$seen{$name}{$outcome} += $n;
	}
	sql("DELETE FROM chatwebhook.webhook WHERE name <> 'mark'");
	return worker_is_there();
}

sub go_through_classes
{
	my ($each) = @_;
	# Connectors are slow under valgrind, and the slow get a twentieth of the
	# worker's time: those that ask for much of it have their turn once.
	my @names = grep { !$seen{$_} || !{ @{ $classes{$_} }[ 2 .. $#{ $classes{$_} } ] }->{once} } sort keys %classes;
	script(join "\n", map { webhook_sql($_, map { @$_[ 0, 2 .. $#$_ ] } $classes{$_}) } @names);
	script(join "\n", map {
		my %columns = @{ $classes{$_} }[ 2 .. $#{ $classes{$_} } ];
		emit_sql($_, $columns{n} // $each)
	} @names);
	return settle();
}

# What is done to deliveries that are under way, and to the worker.
sub disturb
{
	my ($harm) = @_;
	my %hang = (timeout => '5 seconds');
	my $asked = $receiver->count('hung');
	script(join "\n", (map { webhook_sql($_, '/hang/-/hung', %hang) } qw(deleted canceled changed)),
		webhook_sql('tested', '/ok'), webhook_sql('tested_badly', '/reset'), webhook_sql('tested_closed', $nobody));
	script(join "\n", map { emit_sql($_, 5) } qw(deleted canceled changed));
	ok($receiver->wait_for($asked + 3, 'hung'), 'requests hang');
	script(q{DELETE FROM chatwebhook.webhook WHERE name = 'deleted';
		SELECT count(chatwebhook.cancel(id)) FROM chatwebhook.delivery WHERE webhook_name = 'canceled';
		SELECT count(chatwebhook.rotate_secret(id)) FROM chatwebhook.webhook WHERE name = 'changed';
		UPDATE chatwebhook.webhook SET url = replace(url, 'hang', 'ok') WHERE name = 'changed';
		SELECT count(t) FROM chatwebhook.webhook w, chatwebhook.test_webhook(w.id) t WHERE w.name LIKE 'tested%';
		SELECT count(*) FROM chatwebhook.metrics, chatwebhook.webhook_health;
		ALTER SYSTEM SET chatwebhook.max_in_flight = 20;});
	sql('SELECT pg_reload_conf()');
	if ($harm)
	{
		my $pid = worker_pid();
		sql("SELECT pg_terminate_backend($pid)");
		becomes_true("SELECT count(*) = 1 FROM chatwebhook.worker_status WHERE pid <> $pid", 'another worker has started');
	}
	sql('ALTER SYSTEM RESET chatwebhook.max_in_flight');
	sql('SELECT pg_reload_conf()');
	return settle();
}

# A worker keeps the place of a delivery for the next one, of as many as it ever
# had at once: here it has all that it may have, or each round would have some
# more by chance.
sub fill_places
{
	script(webhook_sql('flood', '/ok', max_in_flight => 64) . emit_sql('flood', 1000));
	ok(wait_idle($node), 'as much was under way as may be');
	sql("DELETE FROM chatwebhook.webhook WHERE name = 'flood'");
	return worker_is_there();
}

# An alert is opened, and closed when what it tells of is over.
sub recover
{
	my $open = "SELECT count(*) = %d FROM chatwebhook.alert WHERE webhook_name = 'recovering' AND closed_at IS NULL";
	script(webhook_sql('recovering', '/status/500', max_retries => 0) . emit_sql('recovering', 5));
	ok($node->poll_query_until('postgres', sprintf $open, 1), 'an alert is opened');
	script("UPDATE chatwebhook.webhook SET url = replace(url, 'status/500', 'ok') WHERE name = 'recovering';" . emit_sql('recovering', 1));
	ok($node->poll_query_until('postgres', sprintf $open, 0), 'and closed');
	sql("DELETE FROM chatwebhook.webhook WHERE name = 'recovering'");
	return worker_is_there();
}

#
# What a worker has of memory: all that is its own, valgrind's part in it
# included, and what PostgreSQL knows of
#
sub weigh
{
	my ($pid) = @_;
	my %result;
	($result{rss_kb}) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;
	if ($node->pg_version >= 14)
	{
		# A statement of its own, such as retention's, may be under way: what that
		# takes goes when it ends.
		my $account;
		foreach my $attempt (1 .. 600)
		{
			my $offset = -s $node->logfile;
			sql("SELECT pg_log_backend_memory_contexts($pid)");
			$node->wait_for_log(qr/Grand total: .* used/, $offset);
			$account = slurp_file($node->logfile, $offset);
			last if $account !~ /; SPI Exec: /;
			sleep 0.1;
		}
		($result{palloc}) = $account =~ /Grand total: .*?(\d+) used/;
		$result{contexts}{$1} += $2 while $account =~ /level: \d+; (.+?): \d+ total in .*? (\d+) used/g;
		# Deleted webhooks are there until the next sweep: 016_deleted_webhooks.pl shows
		# that they are forgotten.
		$result{palloc} -= $_ foreach $account =~ /chatwebhook webhook: .*?(\d+) used/g;
	}
	diag("after $deliveries deliveries, worker $pid: " . join(', ', map { "$_ $result{$_}" } sort grep { $_ ne 'contexts' } keys %result));
	return \%result;
}

my $begin = time;
worker_is_there();
# about four rounds
my $each = int($wanted / 200) || 1;
my $round = 0;
my ($pid, $half);
while ($deliveries < $wanted)
{
	$round++;
	go_through_classes($each);
	# A new worker has all its plans and catalog caches before it: it is weighed
	# when it has gone through all classes once, and so is not ended after that.
	disturb($round == 1);
	if ($round == 1)
	{
		fill_places();
		recover();
	}
	diag(sprintf 'round %d: %d deliveries, %.0f s', $round, $deliveries, time - $begin);
	next if $round == 1 || $deliveries < $wanted / 2;
	$pid //= worker_pid();
	$half //= weigh($pid);
}
my $end = weigh($pid);
is(worker_pid(), $pid, 'it is the same worker');
cmp_ok($end->{rss_kb} - $half->{rss_kb}, '<', $growth_kb, 'its own memory has not grown');
cmp_ok($end->{palloc} - $half->{palloc}, '<', $palloc_tolerance, 'palloc\'d memory has not grown')
  if defined $end->{palloc};
foreach my $context (sort keys %{ $end->{contexts} })
{
	my $growth = $end->{contexts}{$context} - ($half->{contexts}{$context} // 0);
	diag("$context has grown by $growth") if $growth > 1000;
}

# Every class has come to the end that it was to show.
foreach my $name (sort keys %classes)
{
	my @other = grep { $_ !~ $classes{$name}[1] } keys %{ $seen{$name} };
	ok($seen{$name} && !@other, "$name") or diag(join "\n", @other);
}
$node->stop('fast');

#
# What valgrind has found, in any process of the server
#
my ($processes, %ours, %others) = (0);
foreach my $file (glob "$logs/*.log")
{
	$processes++;
	foreach my $block (split /\n(?:==\d+== *\n)+/, slurp_file($file))
	{
		$block =~ s/^==\d+== ?//mg;
		next if $block !~ /^ +(?:at|by) 0x|^Process terminating/m;
		(my $key = $block) =~ s/0x[0-9A-F]+|[\d,]+ bytes|record [\d,]+ of [\d,]+|blocks?//g;
		if ($block =~ m{\(\Q$source\E/src/|/chatwebhook\.so\)|^Process terminating})
		{
			$ours{$key} //= $block;
		}
		else
		{
			my ($top) = $block =~ /^ +by 0x\w+: (.*)/m;
			my ($what) = $block =~ /^(.*)/;
			$what =~ s/[\d,]+ bytes.*are|in loss record.*//g;
			$others{ "$what, " . ($top // '') }++;
		}
	}
}
cmp_ok($processes, '>', 10, "$processes processes ran under valgrind");
diag("not ours: $_ ($others{$_} times)") foreach sort keys %others;
is(scalar(keys %ours), 0, 'no error in what is ours');
diag($_) foreach sort values %ours;
diag(sprintf '%d deliveries, %d classes, %d processes, %.0f s', $deliveries, scalar(keys %classes), $processes, time - $begin);

done_testing();
