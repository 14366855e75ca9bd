# Receivers that were written for other senders, and ones that move from one
# signature to another.
#
# Only the code that such receivers use can show that they take our requests as they
# are: @octokit/webhooks, stripe, svix and standardwebhooks from npm, Shopify's,
# Hasura's and Supabase's as their documentation has it.  They are given what the
# page docs/migrating.md says, and hundreds of events that are hard to write.  That
# values are computed for each request, over the body that is sent, by whichever
# connector, only a worker's requests can show.
#
# The packages are those of CHATWEBHOOK_NODE_MODULES, or fetched with npm; without
# them the test is skipped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use Digest::SHA qw(hmac_sha256_base64 hmac_sha256_hex);
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node_program = $ENV{NODE} // 'node';
my $modules = npm_packages('standardwebhooks@1.1.1', 'svix@1.99.1', '@octokit/webhooks@14.2.0', 'stripe@23.1.0');
plan skip_all => 'the npm packages are not there' if !defined $modules;

my $receiver = start_receiver(program => 'schemes.js', args => [ '--modules' => $modules ]);
my $node = new_node('main');

# Awkward events, each with its number as the conversation.
my ($awkward, $errors) = ('', '');
IPC::Run::run([ $node_program, "$Chatwebhook::lib/json_values.js", 'awkward' ], '>' => \$awkward, '2>' => \$errors)
  or die "no values: $errors";
$awkward .= join "\n",
  # half a surrogate pair as text, digits that no double holds, names of our own
  '{"a": "\\\\ud800", "\\\\udfff": "\\\\ud83d"}', '{"n": [12345678901234567890, 1e400, -0.1000000000000000055511151231257827]}',
  '{"a": "{{$hmac_sha256}} {{$id}} {{token}}"}', '{"webhook-signature": "v1,x"}', '';
my $lines = $awkward =~ tr/\n//;
cmp_ok($lines, '>=', 300, "$lines awkward events");
script(q{
	CREATE TABLE line (n int GENERATED ALWAYS AS IDENTITY, value jsonb);
	INSERT INTO chatwebhook.event_type (name) VALUES ('awkward'), ('order.placed'), ('order.changed');
	CREATE ROLE app});
$node->safe_psql('postgres', "COPY line (value) FROM STDIN;\n" . ($awkward =~ s/\\/\\\\/gr) . "\\.\n");

# Emit all of them as this type, with the data that an expression over value makes.
sub emit_awkward
{
	my ($type, $data) = @_;
	$data //= 'value';
	return sql(qq{SELECT count(chatwebhook.emit('$type', E'b "'' \\u2028', n::text, $data)) FROM line});
}

sub quoted
{
	my ($text) = @_;
	utf8::encode($text) if utf8::is_utf8($text);
	return "'" . ($text =~ s/'/''/gr) . "'";
}

# The body of a request in bytes.
sub body_of
{
	my ($request) = @_;
	my $body = $request->{body};
	utf8::encode($body);
	return $body;
}

# All requests of a label were accepted, so many; those after the first few, if
# that is asked for.
sub all_accepted
{
	my ($label, $n, $what, $before) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @requests = $receiver->log($label);
	splice @requests, 0, $before // 0;
	my ($refused) = grep { $_->{status} != 200 } @requests;
	diag("$refused->{why}: $refused->{body}") if $refused;
	is(scalar(grep { $_->{status} == 200 } @requests) . ' of ' . @requests, "$n of $n", $what);
	return;
}

# Emit all of them to the webhooks that there are, in batches; all are accepted.
sub batches_accepted
{
	my (@labels) = @_;
	my %before = map { $_ => $receiver->count($_) } @labels;

	sql("UPDATE chatwebhook.webhook SET batch_size = 20, batch_window = '50 ms'");
	emit_awkward('awkward');
	ok(wait_idle($node), 'the worker is done with batches');
	foreach my $label (@labels)
	{
		my @requests = $receiver->log($label);
		splice @requests, 0, $before{$label};
		cmp_ok(scalar @requests, '<', $lines, "$label has got batches");
		my $events = 0;
		$events += @{ JSON::PP->new->decode($_->{body}) } foreach @requests;
		is($events, $lines, 'of all events');
		all_accepted($label, scalar @requests, 'and takes them', $before{$label});
	}
	return;
}

#
# What the page says
#
my $page = slurp_file("$FindBin::Bin/../../docs/migrating.md");
my %statement = map { (/name => '([^']+)'/)[0] => $_ }
  grep { /create_webhook\(/ && /(?:headers|auth) =>/ } $page =~ /^```sql\n(.*?)^```$/msg;
is_deeply([ sort keys %statement ], [ 'GitHub', 'Shopify', 'Stripe', 'Supabase', 'as before' ], 'the page has these');

# Do what the page says, for this receiver; returns the webhook's id and secret.
sub as_on_page
{
	my ($name, $path, $credential) = @_;
	my $url = $receiver->url("/$path/-/$path");
	my $sql = $statement{$name} =~ s{https://shop\.example\.com/\w+}{$url}r;
	$sql =~ s{events => '[^']*'}{events => '{awkward}', enabled => false, max_retries => 0} or die 'no events';
	script($sql);
	my $id = sql('SELECT id FROM chatwebhook.webhook WHERE name = ' . quoted($name));
	sql("SELECT chatwebhook.set_credential('$id', '$credential', '$credential-0123456789')") if $credential;
	sql("UPDATE chatwebhook.webhook SET enabled = true WHERE id = '$id'");
	return ($id, sql("SELECT chatwebhook.secret('$id')"));
}

subtest 'an HMAC of another sender' => sub {
	my %id;
	foreach my $name ('GitHub', 'Shopify', 'Stripe')
	{
		my ($id, $secret) = as_on_page($name, lc $name);
		$id{$name} = $id;
		$receiver->set_secret(lc $name, $secret);
	}
	is(emit_awkward('awkward'), $lines, "$lines events are emitted");
	ok(wait_idle($node), 'the worker is done');
	all_accepted(lc $_, $lines, "$_\'s receiver takes them") foreach sort keys %id;
	is( sql('SELECT sum(successes), sum(failures) FROM chatwebhook.webhook_health'),
		3 * $lines . '|0', 'so does our own count');

	my ($github) = $receiver->log('github');
	is_deeply([ @{ $github->{checks} }{qw(id name type)} ], [ $github->{headers}{'webhook-id'}, 'awkward', 'awkward' ],
		'Octokit has the id and the type');
	my ($shopify) = $receiver->log('shopify');
	is_deeply($shopify->{checks}, { id => $shopify->{headers}{'webhook-id'}, topic => 'awkward' }, 'and Shopify\'s');
	is($github->{headers}{'x-hub-signature-256'}, $github->{headers}{'x-webhook-signature'},
		'the HMAC is keyed like X-Webhook-Signature');

	batches_accepted(qw(github shopify stripe));

	# a secret that the receiver has already
	sql('DELETE FROM chatwebhook.webhook');
	create_webhook($node, name => 'github', path => '/github', events => ['webhook.test'], secret => 'it has been here for years',
		headers => { 'X-Hub-Signature-256' => 'sha256={{$hmac_sha256}}', 'X-GitHub-Event' => '{{$type}}', 'X-GitHub-Delivery' => '{{$delivery}}' });
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	is(($receiver->log('github'))[-1]{status}, 200, 'a receiver keeps its secret');

	# Were they to accept anything, nothing above would say much.
	foreach my $name (qw(github shopify stripe))
	{
		create_webhook($node, name => $name, path => "/$name", events => ['webhook.test'],
			headers => { 'X-Hub-Signature-256' => 'sha256={{$hmac_sha256}}', 'X-GitHub-Event' => '{{$type}}', 'X-GitHub-Delivery' => '{{$id}}',
				'X-Shopify-Hmac-Sha256' => '{{$hmac_sha256_base64}}', 'Stripe-Signature' => 't={{$timestamp}},v1={{$hmac_sha256_timestamped}}' })
		  if $name ne 'github';
		$receiver->set_secret($name, 'whsec_' . 'A' x 43 . '=');
	}
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	is(($receiver->log($_))[-1]{status}, 401, "$_ refuses another secret") foreach qw(github shopify stripe);
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'a connector\'s requests' => sub {
	# beside what the page says, an HMAC of the body that the connector makes
	foreach my $case ([ 'as before', 'hasura', 'hook_secret' ], [ 'Supabase', 'supabase', 'service_key' ])
	{
		my ($name, $path, $credential) = @$case;
		my ($id, $secret) = as_on_page($name, $path, $credential);
		$receiver->set_secret($path, { secret => "$credential-0123456789", hmac => $secret });
		sql(qq{UPDATE chatwebhook.webhook SET headers = '{"X-Body-Hmac": "{{\$hmac_sha256}} of {{\$id}}"}' WHERE id = '$id'});
	}
	is( emit_awkward('awkward',
			q{jsonb_build_object('op', 'INSERT', 'schema', 'public', 'table', 'orders', 'old', NULL, 'new', value)}),
		$lines, "$lines events are emitted");
	ok(wait_idle($node), 'the worker is done');
	all_accepted($_, $lines, "$_\'s receiver takes them, and the HMAC holds") foreach qw(hasura supabase);
	sql('DELETE FROM chatwebhook.webhook');

	# what auth adds to a body is covered; a request without a body has one of nothing
	script(q{
		CREATE FUNCTION public.one(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request LANGUAGE sql STABLE AS $$
			SELECT CASE webhook #>> '{settings,method}'
				WHEN 'GET' THEN ROW('GET', NULL, '{"X-Own": "{{$hmac_sha256}} {{$foo}}"}', NULL, true)::chatwebhook.request
				ELSE ROW('POST', NULL, NULL, '{"a": "\u00e9"}', true)::chatwebhook.request END $$;
		INSERT INTO chatwebhook.connector (name, function, signed) VALUES ('one', 'public.one', true)});
	my %headers = ('X-Mac' => '{{$hmac_sha256}}', 'X-Type' => '{{$type}}/{{$attempt}}/{{$delivery}}');
	my (undef, $get_secret) = create_webhook($node, name => 'get', path => '/plain', connector => 'one', events => ['webhook.test'],
		settings => { method => 'GET' }, headers => \%headers);
	my ($id, $secret) = create_webhook($node, name => 'post', path => '/plain', connector => 'one', events => ['webhook.test'],
		auth => { type => 'body', name => 'key', value => '{{api_key}}' }, credentials => { api_key => 'K' }, headers => \%headers);
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	my ($get) = $receiver->log('get');
	my ($post) = $receiver->log('post');
	my $delivery = sql("SELECT id FROM chatwebhook.delivery WHERE webhook_id = '$id'");
	is($get->{headers}{'x-mac'}, hmac_sha256_hex('', $get_secret), 'a request without a body has an HMAC of nothing');
	is($get->{headers}{'x-own'}, '{{$hmac_sha256}} {{$foo}}', 'what a connector puts into a header is no placeholder');
	like(body_of($post), qr/"key":"K"/, 'the body has the credential');
	is($post->{headers}{'x-mac'}, hmac_sha256_hex(body_of($post), $secret), 'and the HMAC covers it');
	is($post->{headers}{'x-type'}, "webhook.test/1/$delivery", 'the rest is the event\'s');
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'every value' => sub {
	my %header = map { ("X-\u$_" => "{{\$$_}}") } qw(timestamp id type attempt delivery);
	my ($id, $secret) = create_webhook($node, name => 'each', path => '/plain', events => ['webhook.test'],
		credentials => { token => 'a{{$id}}b' },
		headers => { %header, 'X-Hex' => '{{$hmac_sha256}}', 'X-Base64' => '{{$hmac_sha256_base64}}', 'X-Timed' => '{{$hmac_sha256_timestamped}}',
			'X-Mixed' => '{{token}}-{{$attempt}}{{$attempt}} {{token}}{{$hmac_sha256}}.', 'X-Plain' => 'plain {{token}}' });
	my $check = sub {
		my ($request, $type, $delivery, $attempt) = @_;
		my ($headers, $body) = ($request->{headers}, body_of($request));
		my $time = $headers->{'webhook-timestamp'};
		my $hex = hmac_sha256_hex($body, $secret);
		return is_deeply(
			{ map { $_ => $headers->{$_} } qw(x-timestamp x-id x-type x-attempt x-delivery x-hex x-base64 x-timed x-mixed x-plain) },
			{
				'x-timestamp' => $time,
				'x-id' => $headers->{'webhook-id'},
				'x-type' => $type,
				'x-attempt' => $attempt,
				'x-delivery' => $delivery,
				'x-hex' => $hex,
				'x-base64' => hmac_sha256_base64($body, $secret) . '=',
				'x-timed' => hmac_sha256_hex("$time.$body", $secret),
				'x-mixed' => "a{{\$id}}b-$attempt$attempt a{{\$id}}b$hex.",
				'x-plain' => 'plain a{{$id}}b',
			},
			"all are as they should be, of $type, attempt $attempt");
	};
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{"a": "\u00e9"}')});
	ok(wait_idle($node), 'the worker is done');
	my $delivery = sql("SELECT id FROM chatwebhook.delivery WHERE webhook_id = '$id'");
	my $first = ($receiver->log('each'))[-1];
	$check->($first, 'webhook.test', $delivery, 1);

	# a repeat has values of its own
	sql("UPDATE chatwebhook.webhook SET url = '" . $receiver->url('/busy/-/busy') . "', backoff = '10 ms', max_retries = 2 WHERE id = '$id'");
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	my @tries = $receiver->log('busy');
	is(scalar @tries, 3, 'three attempts');
	$check->($tries[$_], 'webhook.test', $tries[$_]{headers}{'x-webhook-delivery'}, $_ + 1) foreach 0 .. 2;

	sql("UPDATE chatwebhook.webhook SET url = '" . $receiver->url('/plain/-/test') . "' WHERE id = '$id'");
	is(sql("SELECT success FROM chatwebhook.test_webhook('$id')"), 't', 'test_webhook() computes them, too');
	$check->(($receiver->log('test'))[-1], 'webhook.test', 0, 1);

	sql("UPDATE chatwebhook.webhook SET url = '" . $receiver->url('/plain/-/batch') . "', batch_size = 10, batch_window = '1 s' WHERE id = '$id'");
	sql(q{SELECT count(chatwebhook.emit('webhook.test', null, null, '{}')) FROM generate_series(1, 10)});
	ok(wait_idle($node), 'the worker is done');
	my $batch = ($receiver->log('batch'))[0];
	$check->($batch, 'batch', $batch->{headers}{'x-webhook-delivery'}, 1);
	like($batch->{headers}{'x-delivery'}, qr/^\d+(,\d+)*$/, 'a list of deliveries');

	# the previous key has no part in an HMAC, although the receiver refuses the current secret
	my $worker = sql('SELECT pid FROM chatwebhook.worker_status');
	my ($refused) = create_webhook($node, name => 'refused', path => '/status/401', events => ['webhook.test'], signing => 'v1a');
	sql("SELECT chatwebhook.rotate_secret('$refused', '1 hour')");
	sql(qq{UPDATE chatwebhook.webhook SET signing = 'v1,v1a', headers = '{"X-Mac": "{{\$hmac_sha256}}"}' WHERE id = '$refused'});
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	is(sql("SELECT status, last_status_code FROM chatwebhook.delivery WHERE webhook_id = '$refused'"), 'dead|401', 'it is given up');
	is(sql('SELECT pid FROM chatwebhook.worker_status'), $worker, 'by the same worker');
	sql("DELETE FROM chatwebhook.webhook WHERE id = '$refused'");

	# while two secrets overlap
	$secret = sql("SELECT chatwebhook.rotate_secret('$id')");
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	my $overlap = ($receiver->log('batch'))[-1];
	$check->($overlap, 'batch', $overlap->{headers}{'x-webhook-delivery'}, 1);
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'only the headers of Standard Webhooks' => sub {
	my ($id, $secret) = create_webhook($node, name => 'bare', path => '/plain', events => ['webhook.test'], settings => { headers => 'standard' });
	sql("SELECT chatwebhook.rotate_secret('$id')");
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	my ($request) = $receiver->log('bare');
	is_deeply(
		[ sort grep { !/^(?:host|accept|content-length|user-agent)$/ } keys %{ $request->{headers} } ],
		[ 'content-type', 'webhook-id', 'webhook-signature', 'webhook-timestamp' ],
		'there are no others, also while secrets overlap');
	sql("UPDATE chatwebhook.webhook SET settings = '{}' WHERE id = '$id'");
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	ok(($receiver->log('bare'))[-1]{headers}{'x-webhook-signature'}, 'without the setting there are');
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'a secret and a private key' => sub {
	my ($id, $secret) = create_webhook($node, name => 'both', path => '/both', events => ['awkward'], signing => 'v1,v1a', max_retries => 0);
	my $public_key = sql("SELECT chatwebhook.public_key('$id')");
	my $knows = sub { $receiver->set_secret('both', { secret => $_[0], publicKey => $_[1] }) };
	my $versions = sub {
		my %seen = map { $_->{checks}{versions} // $_->{why} => 1 } $receiver->log('both');
		return join ', ', sort keys %seen;
	};
	like($secret, qr/^whsec_/, 'create_webhook() returns the secret');
	$knows->($secret, $public_key);
	emit_awkward('awkward');
	ok(wait_idle($node), 'the worker is done');
	all_accepted('both', $lines, 'standardwebhooks and svix verify v1, Node v1a');
	is($versions->(), 'v1 v1a', 'v1 is first');
	my ($request) = $receiver->log('both');
	is($request->{headers}{'x-webhook-signature'}, 'sha256=' . hmac_sha256_hex(body_of($request), $secret), 'there is the HMAC, too');
	is($request->{headers}{'x-webhook-signature'}, sql('SELECT chatwebhook.sign(' . quoted($request->{body}) . ", '$secret')"),
		'as sign() makes it');
	my $verified = sub {
		my ($one, $key) = @_;
		my $headers = JSON::PP->new->encode({ map { $_ => $one->{headers}{$_} } grep { /^webhook-/ } keys %{ $one->{headers} } });
		return sql('SELECT chatwebhook.verify(' . quoted($headers) . '::jsonb, ' . quoted($one->{body}) . ", '$key')");
	};
	is(scalar(grep { $verified->($_, $public_key) ne 't' } $receiver->log('both')), 0, 'verify() accepts each by the public key');
	is($verified->($request, $secret), 't', 'and by the secret');
	is( $request->{headers}{'webhook-signature'},
		sql(sprintf q{SELECT string_agg(chatwebhook.sign('%s', to_timestamp(%s), %s, s), ' ') FROM (VALUES ('%s'), (%s)) AS v(s)},
			$request->{headers}{'webhook-id'}, $request->{headers}{'webhook-timestamp'}, quoted($request->{body}), $secret,
			"(SELECT chatwebhook._open(webhook_id, name, value) FROM chatwebhook.vault WHERE name = 'signing_key')"),
		'sign() makes both');

	batches_accepted('both');
	sql('UPDATE chatwebhook.webhook SET batch_size = 1');

	# receivers change when they like, each of the two
	my $before = $receiver->count('both');
	my $new = sql("SELECT chatwebhook.rotate_secret('$id')");
	my $new_public = sql("SELECT chatwebhook.public_key('$id')");
	isnt($new_public, $public_key, 'both are rotated');
	foreach my $knowing ([ $secret, $public_key ], [ $new, $public_key ], [ $secret, $new_public ], [ $new, $new_public ])
	{
		$knows->(@$knowing);
		sql(q{SELECT count(chatwebhook.emit('awkward', null, n::text, value)) FROM line WHERE n % 4 = 0});
		ok(wait_idle($node), 'the worker is done');
	}
	my @overlap = grep { $_->{checks}{versions} // '' eq 'v1 v1a v1 v1a' } ($receiver->log('both'))[ $before .. $receiver->count('both') - 1 ];
	is(scalar(grep { $_->{status} == 200 } @overlap), $receiver->count('both') - $before, 'with any of the four, while they overlap');
	is(sql("SELECT failures FROM chatwebhook.webhook_health"), 0, 'nothing was refused');
	sql("SELECT chatwebhook.rotate_secret('$id', '0')");
	sql(q{SELECT chatwebhook.emit('awkward', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	is(($receiver->log('both'))[-1]{status}, 401, 'afterwards the old ones are refused');

	# from one to the other, and back
	$knows->(sql("SELECT chatwebhook.secret('$id')"), sql("SELECT chatwebhook.public_key('$id')"));
	my %signing;
	foreach my $signing ('v1', 'v1,v1a', 'v1a', 'v1,v1a', 'v1')
	{
		my @had = map { sql("SELECT chatwebhook.$_('$id')") } qw(secret public_key);
		sql("UPDATE chatwebhook.webhook SET signing = '$signing' WHERE id = '$id'");
		sql(q{SELECT chatwebhook.emit('awkward', null, null, '{}')});
		ok(wait_idle($node), "the worker is done with $signing");
		my $last = ($receiver->log('both'))[-1];
		is(join(',', map { /^(\w+),/ } split / /, $last->{headers}{'webhook-signature'}), $signing, 'it signs by that');
		is(defined $last->{headers}{'x-webhook-signature'} ? 't' : 'f', $signing eq 'v1a' ? 'f' : 't', 'X-Webhook-Signature needs a secret');
		is($verified->($last, sql("SELECT chatwebhook.secret('$id')")), 't', 'with the secret or the key that secret() returns');
		push @{ $signing{$signing} }, [ @had, map { sql("SELECT chatwebhook.$_('$id')") } qw(secret public_key) ];
	}
	my ($up, $again) = @{ $signing{'v1,v1a'} };
	is($up->[2], $up->[0], 'from v1 to both, the secret stays');
	like($up->[3], qr/^whpk_/, 'and there is a public key');
	is($signing{v1a}[0][3], $up->[3], 'from both to v1a, the key stays');
	like($signing{v1a}[0][2], qr/^whsk_/, 'and the secret is gone');
	is($again->[3], $up->[3], 'back to both, the key stays');
	isnt($again->[2], $up->[2], 'and the secret is a new one');
	is($signing{v1}[1][2], $again->[2], 'from both to v1, the secret stays');
	is($signing{v1}[1][3], '', 'and the key is gone');
	is(sql(q{SELECT string_agg(name, ' ') FROM chatwebhook.vault}), 'signing_secret', 'the vault has nothing else');
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'what cannot be computed' => sub {
	# past the checks, as a restore can bring it
	my ($id) = create_webhook($node, name => 'hmac', path => '/plain', events => ['webhook.test'], signing => 'v1a');
	my $becomes = sub {
		my ($change, $problem) = @_;
		script("SET session_replication_role = replica; UPDATE chatwebhook.webhook SET $change WHERE id = '$id'; SELECT chatwebhook._wake('$id')");
		sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
		return becomes_true("SELECT problem = " . quoted($problem) . " FROM chatwebhook.webhook_health WHERE webhook_id = '$id'", $problem);
	};
	sql(q{SELECT chatwebhook.emit('webhook.test', null, null, '{}')});
	ok(wait_idle($node), 'the worker is done');
	$becomes->(q{headers = '{"X-A": "{{$hmac_sha256}}"}'}, 'its headers have an HMAC, for which it has no secret');
	$becomes->(q{headers = '{"X-A": "{{$hmac}}"}'},
		'its headers cannot be sent: "X-A" has the unknown placeholder "{{$hmac}}": there are {{$hmac_sha256}}, {{$hmac_sha256_base64}}, {{$hmac_sha256_timestamped}}, {{$timestamp}}, {{$id}}, {{$type}}, {{$attempt}} and {{$delivery}}');
	$becomes->(q{batch_size = 100, headers = jsonb_build_object('X-A', repeat('{{$delivery}}', 8))},
		'with its computed values filled in, its headers are too long');
	$becomes->(q{batch_size = 1, headers = jsonb_build_object('X-A', repeat('{{$id}}', 21))},
		'its headers cannot be sent: they have more than 20 computed values');
	sql(qq{UPDATE chatwebhook.webhook SET headers = jsonb_build_object('X-A', repeat('{{\$type}}', 20)) WHERE id = '$id'});
	ok(wait_idle($node), 'once there are as many as there may be, what has waited is sent');
	is(($receiver->log('hmac'))[-1]{headers}{'x-a'}, 'webhook.test' x 20, 'with all of them');
};

$node->stop;
done_testing();
