# A webhook's credentials, headers and client certificate stay at its own URL.
#
# A connector may send its requests anywhere.  Only receivers that see all of a
# request, the client certificate included, can show that nothing which belongs
# to the webhook is in one that goes elsewhere: to another host, port, scheme or
# path, or to a host or port whose name only begins like the webhook's.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;

if (system('openssl version >/dev/null 2>&1') != 0)
{
	plan skip_all => 'the openssl command is not there to make certificates';
}

my $json = JSON::PP->new->canonical;
my $directory = PostgreSQL::Test::Utils::tempdir('tls');

# A certificate that is its own authority: NAME.crt and NAME.key.
sub certificate
{
	my ($name, $alternative) = @_;
	system_or_bail('openssl', 'req', '-x509', '-nodes', '-newkey' => 'rsa:2048', '-days' => 2,
		'-subj' => "/CN=$name", '-addext' => "subjectAltName=$alternative",
		'-keyout' => "$directory/$name.key", '-out' => "$directory/$name.crt");
	return;
}

certificate('server', 'DNS:localhost,DNS:hook.example.localhost,IP:127.0.0.1');
certificate('client', 'DNS:client');

# It asks for a client certificate, but serves those who show none.
sub tls_receiver
{
	return start_receiver(args => [
			'--cert' => "$directory/server.crt", '--key' => "$directory/server.key",
			'--client-ca' => "$directory/client.crt", '--client-optional' ]);
}

my $own = tls_receiver();
my $other_port = tls_receiver();
my $plain = start_receiver();

# The port of the plain receiver without its last digit: of it the other begins.
my $short_port = int($plain->port / 10);
my $node = new_node(
	'main',
	'chatwebhook.ca_file' => "$directory/server.crt",
	'chatwebhook.allowed_ports' => join(', ', 80, 443, $short_port, map { $_->port } $own, $other_port, $plain),
	'chatwebhook.log_attempts' => 'all');

# Sends to where the event says, or else the webhook's settings; to the webhook's
# own URL if neither does.
script(q{
	CREATE FUNCTION anywhere(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
		LANGUAGE sql STABLE AS $$
		SELECT ROW('POST', coalesce(event #>> '{data,to}', webhook #>> '{settings,to}'),
			'{"X-Connector": "{{own_header}}", "X-Own": "by the connector"}',
			'{"connector": "{{own_header}} {{auth_secret}}"}', true)::chatwebhook.request
	$$;
	INSERT INTO chatwebhook.connector (name, function) VALUES ('anywhere', 'public.anywhere(jsonb,jsonb,jsonb)')
});

my %secret = (own_header => 'secret-of-the-header', auth_secret => 'secret-of-the-auth',
	client_secret => 'secret-of-the-client', token => 'secret-access-token');
my $basic = encode_base64("user:$secret{auth_secret}", '');
# each way to authenticate, and what shows it at the webhook's own URL
my %auth = (
	bearer => [ { type => 'bearer', token => '{{auth_secret}}' }, qr/"authorization":"Bearer $secret{auth_secret}"/ ],
	basic => [ { type => 'basic', username => 'user', password => '{{auth_secret}}' }, qr/"authorization":"Basic \Q$basic\E"/ ],
	header => [ { type => 'header', name => 'X-Auth', value => '{{auth_secret}}' }, qr/"x-auth":"$secret{auth_secret}"/ ],
	body => [ { type => 'body', name => 'key', value => '{{auth_secret}}' }, qr/\\"key\\":\\"$secret{auth_secret}\\"/ ],
	oauth2 => [ { type => 'oauth2', token_url => $plain->url('/scripted/-/token'), client_id => 'me' },
		qr/"authorization":"Bearer $secret{token}"/ ]);
$plain->set(replies => { token => [ { body => { access_token => $secret{token}, expires_in => 3600 } } ] });

# A webhook with all that is not to get elsewhere.
sub webhook
{
	my ($name, $url, $auth, %more) = @_;
	my $credentials = delete $more{more_credentials} // {};
	my ($id) = create_webhook($node,
		name => $name,
		chatbot_id => $name,
		url => $url,
		connector => 'anywhere',
		max_retries => 0,
		headers => { 'X-Own' => '{{own_header}}' },
		auth => $auth{$auth}[0],
		credentials => {
			%secret{qw(own_header auth_secret client_secret)},
			client_certificate => slurp_file("$directory/client.crt"),
			client_key => slurp_file("$directory/client.key"),
			%$credentials },
		%more);
	return $id;
}

# All requests of a label, at whichever receiver, as text.
sub requests
{
	my ($label) = @_;
	return map { $json->encode($_) } map { $_->log($label) } $own, $other_port, $plain;
}

# What a request shows of what belongs to the webhook.
sub shown
{
	my ($request) = @_;
	my @shown = grep { index($request, $secret{$_}) >= 0 } sort keys %secret;
	push @shown, 'basic' if index($request, $basic) >= 0;
	push @shown, 'client certificate' if $request =~ /"client":"/;
	return "@shown";
}

# Have a webhook send a request to a place; what became of that.
sub send_to
{
	my ($name, $to) = @_;
	sql("SELECT chatwebhook.emit('webhook.test', '$name', NULL, '" . $json->encode(defined $to ? { to => $to } : {}) . "')");
	wait_idle($node) or return 'the worker is not done';
	return sql("SELECT status || coalesce(': ' || last_error, '') FROM chatwebhook.delivery WHERE webhook_name = '$name' ORDER BY id DESC LIMIT 1");
}

# Have it send one elsewhere, by the worker and by test_webhook(): it arrives
# there, with what the connector has put into it and nothing else.
sub stays_home
{
	my ($name, $id, $label, $to, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(send_to($name, $to), 'delivered', "$what: it is sent");
	my @requests = requests($label);
	is(scalar @requests, 1, "$what: it has arrived");
	is(shown($requests[0] // ''), '', "$what: and shows nothing of the webhook");
	like($requests[0] // '', qr/"x-own":"by the connector"/, "$what: but the connector's own header of that name");
	like($requests[0] // '', qr/"x-connector":"\{\{own_header\}\}"/, "$what: in which nothing is filled in");
	sql("UPDATE chatwebhook.webhook SET settings = jsonb_build_object('to', '$to') WHERE id = '$id'");
	is(sql("SELECT success FROM chatwebhook.test_webhook('$id')"), 't', "$what: test_webhook() sends it");
	@requests = requests($label);
	is(scalar @requests, 2, "$what: that has arrived, too");
	is(shown($requests[1] // ''), '', "$what: and shows nothing, either");
	sql("UPDATE chatwebhook.webhook SET settings = '{}' WHERE id = '$id'");
	return;
}

sub at
{
	my ($scheme, $host, $receiver, $path) = @_;
	return "$scheme://$host:" . $receiver->port . $path;
}

foreach my $auth (sort keys %auth)
{
	my $label = "own-$auth";
	my $url = at('https', '127.0.0.1', $own, "/ok/-/$label");
	my $id = webhook($label, $url, $auth);

	subtest "at the webhook's own URL: $auth" => sub {
		my $n = 0;
		foreach my $to (undef, $url, "$url?q=1")
		{
			my $what = $to // 'none';
			is(send_to($label, $to), 'delivered', "$what: it is sent");
			my @requests = requests($label);
			is(scalar @requests, ++$n, "$what: it has arrived");
			like($requests[-1], $auth{$auth}[1], "$what: with the webhook's auth");
			like($requests[-1], qr/"x-own":"$secret{own_header}"/, "$what: its headers");
			like($requests[-1], qr/"client":"client"/, "$what: and its certificate");
			unlike($requests[-1], qr/by the connector/, "$what: in place of the connector's");
		}
		is(sql("SELECT success FROM chatwebhook.test_webhook('$id')"), 't', 'test_webhook() sends it');
		my ($request) = reverse requests($label);
		like($request, $auth{$auth}[1], 'with the auth');
		like($request, qr/"client":"client"/, 'and the certificate');
		is(send_to($label, "$url/deeper"), 'delivered', 'below it: it is sent');
		my @deeper = requests("$label/deeper");
		is(scalar @deeper, 1, 'below it: it has arrived');
		like($deeper[0], $auth{$auth}[1], 'below it: with the auth');
	};

	subtest "elsewhere: $auth" => sub {
		my $to = "$label-elsewhere";
		stays_home($label, $id, "$to-host", at('https', 'localhost', $own, "/ok/-/$to-host"), 'another host');
		stays_home($label, $id, "$to-port", at('https', '127.0.0.1', $other_port, "/ok/-/$to-port"), 'another port');
		stays_home($label, $id, "$to-http", at('http', '127.0.0.1', $plain, "/ok/-/$to-http"), 'another scheme');
		stays_home($label, $id, "$to-path", at('https', '127.0.0.1', $own, "/ok/-/$to-path"), 'another path');
		stays_home($label, $id, "${label}er", "${url}er", 'a path that begins like its own');
	};
}

# Nothing listens at these webhooks' own URLs.
subtest 'a host that begins like the webhook\'s' => sub {
	my $id = webhook('short host', 'https://hook.example', 'bearer');
	stays_home('short host', $id, 'long-host', at('https', 'hook.example.localhost', $own, '/ok/-/long-host'), 'https');
	is(shown(($other_port->log, $plain->log('long-host'))[0] // ''), '', 'and nothing went anywhere else');
	like(send_to('short host', at('https', 'hook.example&.localhost', $own, '/ok/-/odd-host')),
		qr/^dead: .*host/, 'with a character that ends a path only: refused');
	like(send_to('short host', at('https', 'hook.example@localhost', $own, '/ok/-/odd-host')),
		qr/^dead: /, 'as a user\'s name: refused');
	is(join('', requests('odd-host')), '', 'neither was sent');
};

subtest 'a port that begins like the webhook\'s' => sub {
	my $id = webhook('short port', "http://127.0.0.1:$short_port", 'bearer');
	stays_home('short port', $id, 'long-port', at('http', '127.0.0.1', $plain, '/ok/-/long-port'), 'http');
};

subtest 'a URL that is a credential' => sub {
	webhook('secret URL', '{{url}}', 'bearer',
		more_credentials => { url => at('https', '127.0.0.1', $own, '/ok/-/secret-url') });
	is(send_to('secret URL', '{{url}}/deeper'), 'delivered', 'what is below it is sent to');
	like((requests('secret-url/deeper'))[0] // '', $auth{bearer}[1], 'with the auth');
	like(send_to('secret URL', '{{url}}er'), qr/^dead: .*percent-encoded/, 'what only begins with it is refused');
	is(join('', requests('secret-urler')), '', 'and not sent');
};

subtest 'the token\'s URL' => sub {
	my @requests = $plain->log('token');
	cmp_ok(scalar @requests, '>=', 1, 'a token was asked for');
	foreach my $request (@requests)
	{
		like($request->{body}, qr/client_secret=$secret{client_secret}/, 'with the client\'s secret');
		is(shown($json->encode($request)), 'client_secret', 'and nothing else of the webhook');
	}
};

subtest 'the certificate at the token\'s URL' => sub {
	my %place = (
		'the webhook\'s own host' => [ 'own', $own, '127.0.0.1', 1 ],
		'another port' => [ 'port', $other_port, '127.0.0.1', 0 ],
		'another host' => [ 'host', $own, 'localhost', 0 ]);
	foreach my $what (sort keys %place)
	{
		my ($label, $receiver, $host, $shown) = @{ $place{$what} };
		webhook("cert-$label", at('https', '127.0.0.1', $own, "/ok/-/cert-$label"), 'bearer',
			auth => { type => 'oauth2', token_url => at('https', $host, $receiver, "/ok/-/token-$label"), client_id => 'me' });
		# receivers with TLS cannot be given a token to reply with
		like(send_to("cert-$label", undef), qr/^dead: .*access_token/, "$what: a token was asked for");
		my ($request) = requests("token-$label");
		like($request // '', qr/client_secret=$secret{client_secret}/, "$what: with the secret");
		like($request // '', $shown ? qr/"client":"client"/ : qr/"client":null|^(?!.*"client":)/, "$what: "
			  . ($shown ? 'and the certificate' : 'but not the certificate'));
	}
};

is(sql(q{SELECT count(*) FROM chatwebhook.attempt WHERE error ~ 'secret-' OR response_body ~ 'secret-'}), 0,
	'no attempt shows any of it');
$node->stop;
done_testing();
