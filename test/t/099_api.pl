# A management API for customers: examples/api, and docs/management-api.md.
#
# Only the server of the example itself, behind a PgBouncer whose connections its
# customers share, can show that no request sees what is another customer's or finds
# what another request has left on the connection, and that nothing that a customer can
# send makes it answer with anything but a reason.  The page's own SQL is run here, and
# for PostgREST the statements that its documentation lists for a request.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Chatwebhook;
use Encode qw(encode);
use IPC::Open2 qw(open2);
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->utf8->canonical->allow_nonref;
my $root = "$FindBin::RealBin/../..";
my $nodejs = $ENV{NODE} // 'node';
my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin';
my $version = eval { qx($nodejs --version 2>/dev/null) } // '';
my $pool_size = 3;

plan skip_all => 'there is no PgBouncer' if !$pgbouncer;
plan skip_all => "there is no Node.js of version 18 or later ($nodejs)" if $version !~ /^v(\d+)/ || $1 < 18;
my $modules = npm_packages('pg@8.23.1');
plan skip_all => 'the npm package pg is not there, and could not be got' if !$modules;

#
# The example as its README sets it up
#
my $receiver = start_receiver();
my $node = new_node('main');
my $directory = PostgreSQL::Test::Utils::tempdir('api');
my $pooler_port = PostgreSQL::Test::Cluster::get_free_port();
my %tokens = (shop => '0a' x 32, cafe => '0b' x 32);
my (%programs, $client_pid);

sub write_file
{
	my ($name, $text) = @_;
	unlink "$directory/$name";
	append_to_file("$directory/$name", $text);
	return;
}

# Starts a program, and returns the first line of its output that matches.
sub start_program
{
	my ($name, $pattern, @command) = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/099_api_$name.log";
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	unlink $log;
	$programs{$name} = IPC::Run::start([ @command ], '<', \undef, '>', $log, '2>&1');
	while (time < $deadline)
	{
		return $1 if -e $log && slurp_file($log) =~ $pattern;
		die "$name has ended, see $log\n" if !$programs{$name}->pumpable;
		sleep 0.02;
	}
	die "$name did not start, see $log\n";
}

sub stop_program
{
	my ($name) = @_;
	my $program = delete $programs{$name} or return;
	$program->kill_kill(grace => scaled(10));
	return;
}

END
{
	my $status = $?;
	stop_program($_) foreach keys %programs;
	kill 'TERM', $client_pid if $client_pid;
	$? = $status;
}

$node->command_ok([ 'psql', '-X', '-q', '-d' => $node->connstr('postgres'),
		'-v' => 'password=secret', '-f' => "$root/examples/api/setup.sql" ], 'setup.sql is run');
my $readme = slurp_file("$root/examples/api/README.md");
my ($insert) = $readme =~ /^    echo "(INSERT .*)" \|$/m;
foreach my $customer (keys %tokens)
{
	my $statement = $insert =~ s/'shop'/'$customer'/r;
	IPC::Run::run([ 'psql', '-X', '-q', '-d' => $node->connstr('postgres'), '-v' => "token=$tokens{$customer}" ], '<', \$statement)
	  or die "no token for $customer\n";
}

# Time-outs for this machine, and this test's addresses.
my $seconds = scaled(60);
my $server = slurp_file("$root/examples/api/server.js") =~ s/10_000/${seconds}000/r =~ s/30_000/${seconds}000/r;
my $ini = slurp_file("$root/examples/api/pgbouncer.ini");
$ini =~ s/^chat = .*/'chat = host=' . $node->host . ' port=' . $node->port . ' dbname=postgres'/me;
$ini =~ s/^(listen_port =).*/$1 $pooler_port\nunix_socket_dir =/m;
$ini =~ s/^(default_pool_size =).*/$1 $pool_size/m;
$ini =~ s/^(query_wait_timeout =).*/$1 $seconds/m;
$ini =~ s{^(auth_file =).*}{$1 $directory/userlist.txt}m;
sql(qq{ALTER ROLE webhook_api SET $_ = '$seconds s'}) foreach qw(statement_timeout idle_in_transaction_session_timeout);
write_file('pgbouncer.ini', $ini);
write_file('userlist.txt', qq{"webhook_api" "secret"\n});
write_file('server.js', $server);
write_file('package.json', slurp_file("$root/examples/api/package.json"));
symlink "$modules/node_modules", "$directory/node_modules" or die "symlink: $!";

$ENV{DATABASE_URL} = "postgres://webhook_api:secret\@127.0.0.1:$pooler_port/chat";

sub start_pooler
{
	start_program('pgbouncer', qr/(process up)/, $pgbouncer, "$directory/pgbouncer.ini");
	return;
}

sub start_server
{
	my ($name, $file) = @_;
	local $ENV{PORT} = 0;
	return start_program($name, qr/^listening (\d+)$/m, $nodejs, "$directory/$file");
}
start_pooler();
my $port = start_server('server', 'server.js');

# Requests to the API: arrays of method, path, token, and body, which can be a text.
$client_pid = open2(my $from_client, my $to_client,
	$nodejs, "$root/test/lib/requests.js", $PostgreSQL::Test::Utils::timeout_default);

sub begin_requests
{
	my ($at_once, @requests) = @_;
	my @sent = map {
		my ($method, $path, $token, $body, %more) = @$_;
		{   method => $method, url => "http://127.0.0.1:$port$path",
			headers => { defined $token ? (Authorization => "Bearer $token") : () },
			defined $body ? (body => ref $body ? $json->encode($body) : $body) : (), %more }
	} @requests;
	print $to_client $json->encode({ atOnce => $at_once, requests => \@sent }), "\n";
	$to_client->flush;
	return;
}

sub end_requests
{
	my $line = <$from_client> // die "requests.js has failed\n";
	return map { { %$_, json => length $_->{body} ? $json->decode(encode('UTF-8', $_->{body})) : undef } } @{ $json->decode($line) };
}

sub replies
{
	begin_requests(@_);
	return end_requests();
}

# One request of a customer: the status and what was sent back.
sub request
{
	my ($customer, $method, $path, $body) = @_;
	my ($reply) = replies(1, [ $method, $path, $tokens{$customer}, $body ]);
	return ($reply->{status}, $reply->{json});
}

sub is_reply
{
	my ($got, $expected, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @parts = ref $expected ? @$expected : ($expected);
	is($got->{status}, shift @parts, $what) or diag($got->{body});
	foreach my $part (@parts)
	{
		like($got->{body}, $part, '... and says so');
	}
	return;
}

# What the next user of each of the pool's connections finds there.  The same number of
# transactions at once gets all of them.
sub leftovers
{
	my ($output, $errors) = ('', '');
	my @before = split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE usename = 'webhook_api'});
	write_file('leftovers.js', q{
		import pg from 'pg';
		const clients = [];
		for (let i = 0; i < process.argv[2]; i++) {
			const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
			await client.connect();
			await client.query('BEGIN');
			clients.push(client);
		}
		const found = [];
		for (const client of clients) found.push((await client.query(`SELECT pg_backend_pid() AS pid,
			coalesce(current_setting('chatwebhook.chatbot', true), '') AS chatbot,
			(SELECT count(*)::int FROM chatwebhook.webhook) + (SELECT count(*)::int FROM chatwebhook.delivery) AS rows,
			(SELECT count(*)::int FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory') AS locks,
			(SELECT count(*)::int FROM pg_prepared_statements) AS statements`)).rows[0]);
		for (const client of clients) { await client.query('ROLLBACK'); await client.end(); }
		console.log(JSON.stringify(found));});
	IPC::Run::run([ $nodejs, "$directory/leftovers.js", $pool_size ], '<', \undef, '>', \$output, '2>', \$errors,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default)) or die "leftovers.js: $errors\n";
	my $found = $json->decode($output);
	my %seen = map { $_->{pid} => 1 } @$found;
	return 'not all connections were seen' if grep { !$seen{$_} } @before;
	return join ' ', map { "$_->{chatbot}|$_->{rows}|$_->{locks}|$_->{statements}" } @$found;
}
my $nothing = join ' ', ('|0|0|0') x $pool_size;

#
# All routes
#
my ($status, $reply) = request('shop', 'GET', '/api/webhooks');
is_deeply([ $status, $reply ], [ 200, [] ], 'at first there are no webhooks');
my (%ids, %created);
foreach my $customer (qw(shop cafe))
{
	($status, $created{$customer}) = request($customer, 'POST', '/api/webhooks', {
		name => $customer, url => $receiver->url("/fail/1/then/ok/-/$customer"), events => [ '*', 'webhook.test' ],
		max_retries => 0, timeout => scaled(10) > 30 ? '30 s' : scaled(10) . ' s', headers => { 'X-Of' => $customer } });
	is($status, 201, "a webhook of $customer is created");
	$ids{$customer} = $created{$customer}{id};
	like(my $secret = delete $created{$customer}{secret}, qr/^whsec_/, 'with a secret');
	is($secret, sql("SELECT chatwebhook.secret('$ids{$customer}')"), 'which is its own');
	$receiver->set_secret($customer, $secret);
}
is(sql('SELECT string_agg(name || chatbot_id, chr(32) ORDER BY name) FROM chatwebhook.webhook'), 'cafecafe shopshop',
	'each belongs to the chatbot of its token');
foreach my $customer (qw(shop cafe))
{
	($status, $reply) = request($customer, 'GET', '/api/webhooks');
	is_deeply([ $status, $reply ], [ 200, [ $created{$customer} ] ], "$customer sees its own, without the secret");
}
is($created{shop}{$_->[0]}, $_->[1], "$_->[0] is shown as JSON") foreach ([ max_retries => 0 ], [ backoff => '00:00:01' ]);
is_deeply($created{shop}{events}, [ '*', 'webhook.test' ], 'and an array');

($status, $reply) = request('shop', 'PATCH', "/api/webhooks/$ids{shop}", { name => 'renamed', filter => '$.data.n > 0', rate_limit => 1000 });
is_deeply([ $status, @$reply{qw(name filter rate_limit)} ], [ 200, 'renamed', '($."data"."n" > 0)', 1000 ], 'columns are changed');
($status, $reply) = request('shop', 'PATCH', "/api/webhooks/$ids{shop}", { name => 'shop', filter => undef });
is_deeply([ $status, @$reply{qw(name filter rate_limit)} ], [ 200, 'shop', undef, 1000 ], 'and changed back, the others stay');

($status, $reply) = request('shop', 'POST', "/api/webhooks/$ids{shop}/test");
is_deeply([ $status, @$reply{qw(success status)} ], [ 200, JSON::PP::false, 503 ], 'a test that fails says so');
($status, $reply) = request('shop', 'POST', "/api/webhooks/$ids{shop}/test");
is_deeply([ $status, @$reply{qw(success status error)} ], [ 200, JSON::PP::true, 200, undef ], 'a test');
is($_->{verified}{standard}, JSON::PP::true, 'is signed') foreach ($receiver->log('shop'))[1];
request('cafe', 'POST', "/api/webhooks/$ids{cafe}/test");

# The workers deliver what is emitted.
script(q{SELECT chatwebhook.emit('webhook.test', 'shop', 'c', '{}'), chatwebhook.emit('webhook.test', 'cafe', 'c', '{}')});
ok(wait_idle($node), 'an event for each is delivered');
is($receiver->count('shop'), 3, 'to the shop');
foreach my $customer (qw(shop cafe))
{
	($status, $reply) = request($customer, 'GET', "/api/webhooks/$ids{$customer}/deliveries");
	is_deeply([ $status, map { [ @$_{qw(status event_type chatbot_id last_status_code)} ] } @$reply ],
		[ 200, [ 'delivered', 'webhook.test', $customer, 200 ] ], "$customer sees its delivery");
}

# A dead letter, and its retry
my $elsewhere = $receiver->url('/fail/1/then/ok/-/dead');
request('shop', 'PATCH', "/api/webhooks/$ids{shop}", { url => $elsewhere });
script(q{SELECT chatwebhook.emit('webhook.test', 'shop', 'c', '{}')});
ok(wait_idle($node), 'another event fails');
($status, $reply) = request('shop', 'GET', "/api/webhooks/$ids{shop}/deliveries?status=dead");
is_deeply([ $status, map { @$_{qw(status last_status_code)} } @$reply ], [ 200, 'dead', 503 ], 'there is a dead letter');
my $dead = $reply->[0]{id};
is($dead, sql('SELECT id FROM chatwebhook.dead_letter'), 'whose id keeps all digits');
($status, $reply) = request('shop', 'GET', "/api/webhooks/$ids{shop}/deliveries?before=$dead");
is_deeply([ map { $_->{status} } @$reply ], [ 'delivered' ], 'before it there is the other one');
($status) = request('cafe', 'POST', "/api/deliveries/$dead/retry");
is($status, 404, 'another customer cannot retry it');
ok(wait_idle($node), 'idle');
is($receiver->count('dead'), 1, 'and nothing is sent');
($status, $reply) = request('shop', 'POST', "/api/deliveries/$dead/retry");
is_deeply([ $status, $reply ], [ 202, { retried => JSON::PP::true } ], 'its own customer can');
ok($receiver->wait_for(2, 'dead'), 'it is sent');
ok(wait_idle($node), 'and done');
($status, $reply) = request('shop', 'POST', "/api/deliveries/$dead/retry");
is_deeply([ $status, $reply ], [ 202, { retried => JSON::PP::false } ], 'which is not repeated');

# Deletion
($status, $reply) = request('shop', 'POST', '/api/webhooks', { name => 'gone', url => $receiver->url('/ok') });
($status, $reply) = request('shop', 'DELETE', "/api/webhooks/$reply->{id}");
is_deeply([ $status, $reply ], [ 204, undef ], 'a webhook is deleted');
is(sql('SELECT count(*) FROM chatwebhook.webhook'), 2, 'it and no other');
is(leftovers(), $nothing, 'the connections are as before');

# Every route is in the README.
my %routes = map { $_ => 1 } map { s/\$\{id\}|\(\[0-9\].*?\)/ID/r } $server =~ /^  \[?['`]((?:GET|POST|PATCH|DELETE) [^'`]+)['`]\]?:/mg;
is(join("\n", sort keys %routes), join("\n", sort $readme =~ /^\| `(.*?)`/mg), 'the README lists the routes');
cmp_ok(scalar(split /\n/, slurp_file("$root/examples/api/server.js")), '<', 100, 'the server has fewer than 100 lines');

#
# Two customers, 20 requests at once over fewer connections
#
my %other = (shop => 'cafe', cafe => 'shop');
my (@requests, @whose);
foreach my $n (1 .. 120)
{
	my $customer = $n % 2 ? 'shop' : 'cafe';
	my ($own, $foreign) = @ids{ $customer, $other{$customer} };
	my @some = (
		[ 'GET', '/api/webhooks' ],
		[ 'GET', "/api/webhooks/$own/deliveries" ],
		[ 'GET', "/api/webhooks/$foreign/deliveries" ],
		[ 'PATCH', "/api/webhooks/$own", { settings => { n => $n, of => $customer } } ],
		[ 'PATCH', "/api/webhooks/$foreign", { name => 'stolen' } ],
		[ 'POST', '/api/webhooks', { name => "$customer $n", url => 'https://example.com/', enabled => JSON::PP::false } ],
		[ 'POST', '/api/webhooks', { name => "$customer $n", url => 'no URL' } ],
		[ 'PATCH', "/api/webhooks/$own", { max_retries => 'many' } ],
		[ 'DELETE', "/api/webhooks/$foreign" ],
		[ 'POST', "/api/webhooks/$foreign/test" ]);
	my ($method, $path, $body) = @{ $some[ int($n / 2) % @some ] };
	push @requests, [ $method, $path, $tokens{$customer}, $body ];
	push @whose, $customer;
}
my $sent_before = $receiver->count;
my @replies = replies(20, @requests);
my (%statuses, @foreign);
foreach my $n (0 .. $#replies)
{
	$statuses{ $replies[$n]{status} }++;
	push @foreign, $replies[$n]{body} if $replies[$n]{body} =~ /$other{$whose[$n]}/ || $replies[$n]{body} =~ /$ids{$other{$whose[$n]}}/;
}
is_deeply(\%statuses, { 200 => 36, 201 => 12, 400 => 24, 404 => 48 }, '120 requests, 20 at once, are answered each in its own way');
is("@foreign", '', 'with no row of another customer');
is($receiver->count, $sent_before, 'no foreign webhook was tested');
is(sql(q{SELECT count(*) FROM chatwebhook.webhook WHERE NOT starts_with(name, chatbot_id)
	OR coalesce(settings ->> 'of', chatbot_id) <> chatbot_id}), 0, 'and each has changed only its own');
cmp_ok(sql(q{SELECT count(*) FROM pg_stat_activity WHERE usename = 'webhook_api'}), '<=', $pool_size, 'over fewer connections');
is(leftovers(), $nothing, 'on which nothing is left');

#
# Hostile input
#
my $own = "/api/webhooks/$ids{shop}";
my $columns_before = sql(q{SELECT md5(string_agg(w::text, ' ' ORDER BY id)) FROM chatwebhook.webhook w WHERE chatbot_id = 'cafe'});
my %good = (name => 'x', url => 'https://example.com/');
my @cases = (
	# whom
	(map { [ 401, [ @$_ ] ] } [ 'GET', '/api/webhooks' ], map { [ 'GET', '/api/webhooks', $_ ] }
		'', 'c' x 64, "' OR true --", "\$1", "\xe9\xff", 'x' x 8000),
	[ 401, [ 'POST', '/api/webhooks', undef, { %good } ] ],
	# which
	(map { [ 404, $_ ] }
		[ 'PATCH', "/api/webhooks/$ids{cafe}", $tokens{shop}, { enabled => JSON::PP::false } ],
		[ 'DELETE', "/api/webhooks/$ids{cafe}", $tokens{shop} ],
		[ 'POST', "/api/webhooks/$ids{cafe}/test", $tokens{shop} ],
		[ 'GET', "/api/webhooks/$ids{cafe}/deliveries", $tokens{shop} ],
		[ 'GET', "$own/deliveries/1", $tokens{shop} ],
		[ 'DELETE', '/api/webhooks', $tokens{shop} ],
		[ 'PUT', $own, $tokens{shop}, { %good } ],
		[ 'PATCH', '/api/webhooks/00000000-0000-0000-0000-000000000000', $tokens{shop}, { name => 'x' } ],
		[ 'DELETE', q{/api/webhooks/'%20OR%20true%20--}, $tokens{shop} ],
		[ 'DELETE', "$own%00", $tokens{shop} ],
		[ 'POST', '/api/deliveries/0/retry', $tokens{shop} ],
		[ 'POST', '/api/deliveries/' . '9' x 18 . '/retry', $tokens{shop} ],
		[ 'POST', '/api/deliveries/' . '9' x 30 . '/retry', $tokens{shop} ],
		[ 'POST', '/api/deliveries/-1/retry', $tokens{shop} ],
		[ 'GET', '/', $tokens{shop} ], [ 'GET', '//', $tokens{shop} ], [ 'GET', '/api/__proto__', $tokens{shop} ]),
	# queries
	(map { [ 400, [ 'GET', "$own/deliveries?before=$_", $tokens{shop} ] ] } 'x', '9' x 30, '1%20OR%20true', '%00', '%ff'),
	(map { [ 400, [ 'GET', "$own/deliveries?status=$_", $tokens{shop} ], qr/unknown status/ ] } 'none', '%27%20OR%20true%20--', '%zz', 'x' x 8000),
	# bodies
	(map { [ 400, [ 'POST', '/api/webhooks', $tokens{shop}, $_ ] ], [ 400, [ 'PATCH', $own, $tokens{shop}, $_ ] ] }
		undef, '', '{', 'null', '1', '"name"', '[]', '[{"name": "x"}]', '{}', "\xff", 'name=x', '{"name": "\\u0000"}', '{"name": "\\ud800"}',
		'{"name": ' . '[' x 50_000 . ']' x 50_000 . '}', '[' x 100_000, '{"enabled": NaN}'),
	(map { my $key = $_; map { [ 400, [ @$_, $tokens{shop}, { %good, $key => 'cafe' } ], qr/unknown column/ ] } [ 'POST', '/api/webhooks' ], [ 'PATCH', $own ] }
		qw(id chatbot_id chatbotId secret public_url disabled_at created_at signing __proto__ constructor NAME), '', 'name ', "name = 'x' --",
		q{name) VALUES ('x'); DROP TABLE chatwebhook.webhook; --}, '"', '$1', 'x' x 10_000),
	[ 400, [ 'POST', '/api/webhooks', $tokens{shop}, { name => 'x' } ], qr/null value in column \\"url\\"/ ],
	(map { my $bytes = $_; map { [ 413, [ @$_, $tokens{shop}, '{"name": "' . 'x' x $bytes . '"}' ] ], [ 413, [ @$_, $tokens{shop}, undef, bytes => $bytes ] ] }
			[ 'POST', '/api/webhooks' ], [ 'PATCH', $own ] } 300_000, 3_000_000),
	# values, with a reason and a hint
	(map { [ 400, [ 'PATCH', $own, $tokens{shop}, $_->[0] ], $_->[1], qr/"hint":"\w/ ] }
		[ { url => 'no URL' }, qr/cannot deliver to the URL of webhook \\"shop\\"/ ],
		[ { url => 'https://169.254.169.254/latest' }, qr/cannot deliver to the URL/ ],
		[ { url => 'https://user:password@example.com/' }, qr/cannot deliver to the URL/ ],
		[ { events => ['no.such'] }, qr/no event type matches \\"no.such\\"/ ],
		[ { connector => 'none' }, qr/connector \\"none\\"/ ],
		[ { auth => { type => 'bearer', token => 'plain' } }, qr/secret itself/ ],
		[ { headers => { 'Content-Length' => '1' } }, qr/header/i ],
		[ { filter => '$.data.a[*] == $.data.b[*]' }, qr/invalid filter/ ]),
	(map { [ 400, [ 'PATCH', $own, $tokens{shop}, $_->[0] ], $_->[1] ] }
		[ { events => 'lead.captured' }, qr/malformed array literal/ ],
		[ { max_retries => 101 }, qr/max_retries is 101/ ],
		[ { filter => '$.data.' }, qr/jsonpath/ ]),
);
@replies = replies(20, map { $_->[1] } @cases);
foreach my $n (0 .. $#cases)
{
	my ($expected, $request, @patterns) = @{ $cases[$n] };
	my $what = substr($json->encode([ @$request[ 0, 1, 3 ] ]), 0, 100);
	is_reply($replies[$n], [ $expected, @patterns ], $what);
	like($replies[$n]{body}, qr/^\{"error":"/, 'a reason') if $expected != 200;
}
is(scalar(grep { $_->{status} == 200 && @{ $_->{json} } } @replies), 0, 'SQL in a query finds nothing');

# Any value in any column: it is stored, or refused with a reason.
my ($list) = $server =~ /^const columns = \[(.*?)\];/ms;
my @columns = $list =~ /'(\w+)'/g;
is(scalar @columns, 21, 'the columns are known');
my @values = (undef, JSON::PP::true, 0, -1, 2.5, 1e300, '', 'x', "'; DROP TABLE chatwebhook.webhook; --", "x', chatbot_id = 'cafe", '$1', '{{x}}',
	"\x{1F600}\x{202E}\n", '{a,b}', '{"a": 1}', '1 day', [], {}, [ [1] ], [undef], { a => { b => [1] } }, [ ('x') x 1000 ], 'x' x 100_000);
@requests = ();
foreach my $column (@columns)
{
	foreach my $value (@values)
	{
		push @requests, [ 'PATCH', $own, $tokens{shop}, { $column => $value } ],
		  [ 'POST', '/api/webhooks', $tokens{shop}, { %good, $column => $value } ];
	}
}
@replies = replies(20, @requests);
%statuses = ();
$statuses{ $_->{status} }++ foreach @replies;
is(join(' ', sort keys %statuses), '200 201 400', 'values of any type in any column are stored or refused');
cmp_ok($statuses{400}, '>', @replies / 3, 'and many are refused');
is(scalar(grep { $_->{status} == 400 && !length $_->{json}{error} } @replies), 0, 'with a reason');
is(scalar(grep { $_->{body} =~ /server\.js|node_modules|at \w+ \(/ } @replies), 0, 'none with a stack');
is(sql(q{SELECT count(*) FROM chatwebhook.webhook WHERE chatbot_id NOT IN ('shop', 'cafe') OR chatbot_id IS NULL}), 0, 'all are of a customer');
is(sql(q{SELECT md5(string_agg(w::text, ' ' ORDER BY id)) FROM chatwebhook.webhook w WHERE chatbot_id = 'cafe'}), $columns_before,
	"the other customer's have not changed");
is(leftovers(), $nothing, 'nothing is left on the connections');
sql(q{DELETE FROM chatwebhook.webhook WHERE chatbot_id = 'shop'});
unlike(slurp_file("$PostgreSQL::Test::Utils::log_path/099_api_server.log"), qr/[Ee]rror/, 'the server has logged no error');

#
# One test at a time for each customer
#
($status, $reply) = request('shop', 'POST', '/api/webhooks', { name => 'shop', url => $receiver->url('/ok/-/again') });
my $shop = $reply->{id};
my $session = Session->new($node, 'postgres') or die $Session::error;
$session->query(q{SELECT pg_advisory_lock(hashtext('api test'), hashtext('shop'))});
($status, $reply) = request('shop', 'POST', "/api/webhooks/$shop/test");
is($status, 429, 'while a test runs, another is refused');
($status, $reply) = request('cafe', 'POST', "/api/webhooks/$ids{cafe}/test");
is($status, 200, 'but no other customer');
$session->query('SELECT pg_advisory_unlock_all()');
($status, $reply) = request('shop', 'POST', "/api/webhooks/$shop/test");
is($status, 200, 'afterwards, a test runs');

#
# A lost connection
#
$session->query('BEGIN');
$session->query('LOCK TABLE chatwebhook.webhook');
begin_requests(1, [ 'GET', '/api/webhooks', $tokens{shop} ]);
becomes_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = 'webhook_api' AND wait_event_type = 'Lock'}, 'a request waits');
sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'webhook_api' AND wait_event_type = 'Lock'});
is_deeply([ map { @$_{qw(status body)} } end_requests() ], [ 500, '{"error":"internal error"}' ],
	'if its connection is lost, the reply does not say why');
$session->query('ROLLBACK');
$session->close;
($status, $reply) = request('shop', 'GET', '/api/webhooks');
is_deeply([ $status, map { $_->{name} } @$reply ], [ 200, 'shop' ], 'the next request succeeds');
stop_program('pgbouncer');
($status, $reply) = request('shop', 'GET', '/api/webhooks');
is_deeply([ $status, $reply ], [ 500, { error => 'internal error' } ], 'without PgBouncer, none does');
start_pooler();
($status, $reply) = request('shop', 'GET', '/api/webhooks');
is_deeply([ $status, map { $_->{name} } @$reply ], [ 200, 'shop' ], 'when it is back, they do again');

#
# A server with the mistake that matters most would be noticed
#
stop_program('server');
write_file('mistake.js', $server =~ s/chatbot, true\)/chatbot, false)/r);
$port = start_server('mistake', 'mistake.js');
replies(20, ([ 'GET', '/api/webhooks', $tokens{shop} ]) x 40);
like(leftovers(), qr/shop\|[1-9]/, 'without "true", the next user of a connection is the last customer');
stop_program('mistake');

close $to_client;
waitpid $client_pid, 0;
undef $client_pid;

#
# PostgREST: the page's SQL, and the statements of its requests
#
my $page = slurp_file("$root/docs/management-api.md");
sql('DROP TABLE api_token');
script(q{SELECT chatwebhook.revoke_access('webhook_api')});
script('DROP OWNED BY webhook_api; DROP ROLE webhook_api; DELETE FROM chatwebhook.webhook');
my $blocks = 0;
while ($page =~ /^```sql\n(.*?)^```$/msg)
{
	my ($result, undef, $stderr) = $node->psql('postgres', $1, on_error_stop => 1);
	is("$result$stderr", '0', 'a block of the page runs');
	$blocks++;
}
is($blocks, 3, 'all of them');
is(sql('SELECT chatbot_id FROM chatwebhook.webhook'), 'shop', 'a transaction as on the page has created a webhook');
sql('DELETE FROM chatwebhook.webhook');

# A request, which can be to read only: JSON, or the error.
sub rest
{
	my ($claims, $access, $main) = @_;
	my $role = $claims->{role} // 'anonymous';
	my ($result, $stdout, $stderr) = $node->psql('postgres', "
		START TRANSACTION ISOLATION LEVEL READ COMMITTED $access;
		SELECT set_config('search_path', '\"webhooks\", \"public\"', true), set_config('role', " . literal($role) . ", true),
			set_config('request.jwt.claims', " . literal($claims) . ", true), set_config('request.method', 'POST', true),
			set_config('request.path', '/', true), set_config('request.headers', '{}', true), set_config('request.cookies', '{}', true) \\g /dev/null
		SELECT \"webhooks\".\"set_chatbot\"() \\g /dev/null
		WITH source AS ($main) SELECT coalesce(json_agg(s), '[]') FROM source AS s;
		COMMIT;
		SELECT coalesce(current_setting('chatwebhook.chatbot', true), '') || current_user;",
		on_error_stop => 1, extra_params => [ '-U', 'authenticator' ]);
	return $stderr =~ s/.*?(ERROR:[^\n]*).*/$1/sr if $result != 0;
	my ($rows, $after) = $stdout =~ /(.*)\n(.*)/s;
	is($after, 'authenticator', 'nothing outlasts the transaction');
	return $json->decode(encode('UTF-8', $rows));
}
my %claims = map { $_ => { role => 'webhook_app', chatbot => $_ } } qw(shop cafe);

sub call
{
	my ($function, $types, $arguments) = @_;
	my @names = $types =~ /(\w+) /g;
	return "SELECT c.* FROM json_to_record(" . literal($arguments) . "::json) AS a($types),
		LATERAL webhooks.$function(" . join(', ', map { "$_ := a.$_" } grep { exists $arguments->{$_} } @names) . ') AS c';
}
my %made;
foreach my $customer (qw(shop cafe))
{
	my ($row) = @{ rest($claims{$customer}, 'READ WRITE', call('create_webhook', 'name text, url text, events text[]',
		{ name => $customer, url => $receiver->url("/fail/1/then/ok/-/rest-$customer"), events => ['*', 'webhook.test'] })) };
	$made{$customer} = $row->{id};
	is($row->{secret}, sql("SELECT chatwebhook.secret('$made{$customer}')"), "/rpc/create_webhook of $customer returns the secret");
}
foreach my $customer (qw(shop cafe))
{
	my ($mine, $others) = @made{ $customer, $other{$customer} };
	my $rows = rest($claims{$customer}, 'READ ONLY', 'SELECT * FROM webhooks.webhook');
	is_deeply([ map { $_->{name} } @$rows ], [$customer], "GET /webhook shows that of $customer");
	is_deeply(rest($claims{$customer}, 'READ WRITE', "UPDATE webhooks.webhook SET name = 'stolen' WHERE id = '$others' RETURNING 1"), [], 'PATCH of another changes nothing');
	is_deeply(rest($claims{$customer}, 'READ WRITE', "DELETE FROM webhooks.webhook WHERE id = '$others' RETURNING 1"), [], 'nor does DELETE');
	is_deeply(rest($claims{$customer}, 'READ WRITE', call('test', 'id uuid', { id => $others })), [], 'nor a test');
	is(rest($claims{$customer}, 'READ WRITE', call('test', 'id uuid', { id => $mine }))->[0]{status_code}, 503, 'its own is tested');
	is_deeply(rest($claims{$customer}, 'READ WRITE', q{UPDATE webhooks.webhook SET max_retries = 0 RETURNING name}), [ { name => $customer } ],
		'PATCH without a filter changes its own only');
	like(rest($claims{$customer}, 'READ WRITE', "INSERT INTO webhooks.webhook (name, url) VALUES ('x', 'https://example.com') RETURNING 1"),
		qr/permission denied/, 'POST /webhook is not granted');
}
like(rest($claims{shop}, 'READ WRITE', q{UPDATE webhooks.webhook SET url = 'none' RETURNING 1}), qr/cannot deliver to the URL/, 'a bad value is refused');
my $cut = $receiver->url('/fail/1/then/ok/-/rest-dead');
rest($claims{shop}, 'READ WRITE', "UPDATE webhooks.webhook SET url = '$cut' RETURNING 1");
script(q{SELECT chatwebhook.emit('webhook.test', 'shop', 'c', '{}')});
ok(wait_idle($node), 'an event fails');
is_deeply(rest($claims{cafe}, 'READ ONLY', 'SELECT id FROM webhooks.delivery'), [], 'GET /delivery shows no foreign delivery');
my $letters = rest($claims{shop}, 'READ ONLY', q{SELECT id::text, status FROM webhooks.delivery WHERE status = 'dead'});
is(scalar @$letters, 1, 'but the own one');
is_deeply(rest($claims{cafe}, 'READ WRITE', call('retry', 'id bigint', { id => $letters->[0]{id} })), [], 'another customer cannot retry it');
is_deeply(rest($claims{shop}, 'READ WRITE', call('retry', 'id bigint', { id => $letters->[0]{id} })), [ { retried => JSON::PP::true } ], 'its own can');
ok($receiver->wait_for(2, 'rest-dead'), 'and it is sent');
ok(wait_idle($node), 'idle');
foreach my $claims ({ role => 'webhook_app' }, { role => 'webhook_app', chatbot => undef }, { role => 'webhook_app', chatbot => '' })
{
	is_deeply(rest($claims, 'READ ONLY', 'SELECT id FROM webhooks.webhook UNION ALL SELECT webhook_id FROM webhooks.delivery'), [], 'a token without a chatbot sees nothing');
}
like(rest({ role => 'postgres', chatbot => 'shop' }, 'READ ONLY', 'SELECT 1'), qr/permission denied to set role/, 'no token makes a superuser');
like(rest($claims{shop}, 'READ ONLY', 'SELECT * FROM chatwebhook.vault'), qr/permission denied/, 'secrets stay secret');

$node->stop('fast');
done_testing();
