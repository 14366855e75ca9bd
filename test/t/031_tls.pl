# TLS, with receivers whose certificates are good or bad in one way each, and
# signatures that a receiver can verify without being able to make them.
#
# Only real handshakes can show whose certificates are trusted, that wrong names,
# dates and versions are refused and named as the reason, that a client certificate
# reaches the receiver that asks for it and never serves another webhook, and that
# Node.js accepts the Ed25519 signatures.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

if (system('openssl version >/dev/null 2>&1') != 0)
{
	plan skip_all => 'the openssl command is not there to make certificates';
}

my $directory = PostgreSQL::Test::Utils::tempdir('tls');
my $timeout = $PostgreSQL::Test::Utils::timeout_default;

# Run openssl, quietly.
sub openssl
{
	my (@arguments) = @_;
	my ($stdout, $stderr) = run_command([ 'openssl', @arguments ]);
	die "openssl @arguments: $stderr" if $?;
	return $stdout;
}

sub slurp
{
	my ($name) = @_;
	return slurp_file("$directory/$name");
}

# An authority: NAME.crt and NAME.key.
sub authority
{
	my ($name) = @_;
	# the system's configuration may have the extension, too, which must not be there twice
	append_to_file("$directory/$name.req", "[req]\ndistinguished_name = name\n[name]\n");
	openssl('req', '-x509', '-config', "$directory/$name.req", '-nodes', '-newkey', 'ec', '-pkeyopt',
		'ec_paramgen_curve:prime256v1', '-days', 2, '-subj', "/CN=$name",
		'-addext', 'basicConstraints=critical,CA:TRUE',
		'-keyout', "$directory/$name.key", '-out', "$directory/$name.crt");
	return;
}

# A certificate of an authority, for a host or a client: NAME.crt and NAME.key.
sub certificate
{
	my ($name, $authority, $alternative, $start, $end) = @_;
	$alternative //= 'DNS:localhost,IP:127.0.0.1';
	openssl('req', '-new', '-nodes', '-newkey', 'ec', '-pkeyopt',
		'ec_paramgen_curve:prime256v1', '-subj', "/CN=$name",
		'-keyout', "$directory/$name.key", '-out', "$directory/$name.csr");
	append_to_file("$directory/$name.ext", "subjectAltName=$alternative\n");
	# "openssl ca" can choose the dates, "openssl x509" cannot everywhere
	append_to_file("$directory/$name.cnf", <<"END");
[ca]
default_ca = this
[this]
database = $directory/$name.index
serial = $directory/$name.serial
new_certs_dir = $directory
default_md = sha256
policy = any
unique_subject = no
[any]
commonName = supplied
END
	append_to_file("$directory/$name.index", '');
	append_to_file("$directory/$name.serial", sprintf("%08X\n", 0x10000000 + rand 0x10000000));
	openssl('ca', '-batch', '-notext', '-config', "$directory/$name.cnf",
		'-in', "$directory/$name.csr", '-out', "$directory/$name.crt",
		'-cert', "$directory/$authority.crt", '-keyfile', "$directory/$authority.key",
		'-extfile', "$directory/$name.ext",
		defined $start ? ('-startdate', $start, '-enddate', $end) : ('-days', 2));
	return;
}

# A receiver with a certificate.
sub receiver
{
	my ($name, @args) = @_;
	return start_receiver(args => [
			'--cert' => "$directory/$name.crt",
			'--key' => "$directory/$name.key", @args ]);
}

authority('authority');
authority('stranger');
certificate('good', 'authority');
certificate('foreign', 'stranger');
certificate('elsewhere', 'authority', 'DNS:elsewhere.example,IP:127.9.9.9');
certificate('expired', 'authority', undef, '20200101000000Z', '20200201000000Z');
certificate('early', 'authority', undef, '21000101000000Z', '21000201000000Z');
certificate('alice', 'authority', 'DNS:alice');
certificate('bob', 'authority', 'DNS:bob');
certificate('mallory', 'stranger', 'DNS:mallory');
openssl('pkey', '-in', "$directory/alice.key", '-aes256', '-passout', 'pass:x',
	'-out', "$directory/locked.key");

my %receivers = (
	'good' => receiver('good'),
	'TLS 1.2' => receiver('good', '--tls' => '1.2'),
	'TLS 1.3' => receiver('good', '--tls' => '1.3'),
	'foreign' => receiver('foreign'),
	'elsewhere' => receiver('elsewhere'),
	'expired' => receiver('expired'),
	'early' => receiver('early'),
	'TLS 1.1' => receiver('good', '--tls' => '1.1'),
	'TLS 1' => receiver('good', '--tls' => '1'),
	# it waits for the end of a request's headers, which never comes
	'mute' => start_receiver());

my $node = new_node(
	'main',
	'chatwebhook.allow_http' => 'off',
	'chatwebhook.ca_file' => "$directory/authority.crt",
	'chatwebhook.log_attempts' => 'all');

# Emit an event for the webhooks of one chatbot.
sub emit
{
	my ($chatbot) = @_;
	sql("SELECT chatwebhook.emit('message.sent', '$chatbot', NULL,
			'{\"role\": \"bot\", \"content\": \"hello\"}')");
	return;
}

# A webhook for the events of the chatbot of the same name; its id and secret.
# Credentials are set with it, or the worker may meet it without them.
my %secrets;

sub webhook
{
	my ($name, $receiver, %columns) = @_;
	my $credentials = delete $columns{credentials} // {};
	my $path = delete $columns{path} // '/ok';
	my $url = 'https://127.0.0.1:' . $receiver->port . "$path/-/$name";
	my %given = (
		name => $name,
		chatbot_id => $name,
		url => $url =~ s/ /%20/gr,
		backoff => '10 ms',
		max_retries => 1,
		%columns);
	my $arguments = join ', ', map { "$_ => '$given{$_}'" } sort keys %given;
	my $calls = join ', ', "id", "secret", map { "chatwebhook.set_credential(id, '$_', '$credentials->{$_}')" }
	  sort keys %$credentials;
	my ($id, $secret) = split /\|/,
	  sql("SELECT $calls FROM chatwebhook.create_webhook($arguments)");
	$receiver->set_secret($name, $secret);
	return ($id, $secret);
}

# Emit an event for a webhook alone; what became of its delivery.
sub deliver
{
	my ($name) = @_;
	emit($name);
	wait_idle($node) or return 'the worker is not done';
	return outcome($name);
}

sub outcome
{
	my ($name) = @_;
	return sql("SELECT status, attempts, last_error FROM chatwebhook.delivery
		WHERE webhook_name = '$name' ORDER BY id DESC LIMIT 1");
}

# What there is to say of a handshake that the server has ended.
sub handshake_failed
{
	my ($reason) = @_;
	return qr/^dead\|2\|the TLS handshake failed: (?:$reason)$/;
}

subtest 'certificates' => sub {
	# status after attempts, and the last error
	my $verify = "could not verify the server's certificate: ";
	my $version = handshake_failed(qr/unsupported protocol|.*alert protocol version/);
	my %expected = (
		'good' => qr/^delivered\|1\|$/,
		'TLS 1.2' => qr/^delivered\|1\|$/,
		'TLS 1.3' => qr/^delivered\|1\|$/,
		'foreign' => qr/^dead\|2\|${verify}unable to get local issuer certificate$/,
		'elsewhere' => qr/^dead\|2\|the server's certificate is for another host$/,
		'expired' => qr/^dead\|2\|${verify}certificate has expired$/,
		'early' => qr/^dead\|2\|${verify}certificate is not yet valid( or the system clock is incorrect)?$/,
		'TLS 1.1' => $version,
		'TLS 1' => $version,
		'mute' => qr/^dead\|2\|timed out in the TLS handshake$/);
	my %id;
	# the one that says nothing is waited for in vain, here and by test_webhook()
	($id{$_}) = webhook($_, $receivers{$_}, timeout => $_ eq 'mute' ? scaled(2) . ' s' : '5 minutes') foreach sort keys %expected;
	emit($_) foreach sort keys %expected;
	ok(wait_idle($node), 'the worker is done');
	foreach my $name (sort keys %expected)
	{
		like(outcome($name), $expected{$name}, $name);
		my $delivered = $expected{$name} =~ /delivered/;
		is($receivers{$name}->count, $delivered ? 1 : 0,
			$delivered ? "$name: the request has arrived" : "$name: no request was made");
		my ($test) = sql("SELECT success, error FROM chatwebhook.test_webhook('$id{$name}')");
		my ($error) = outcome($name) =~ /\|([^|]*)$/;
		is($test, $delivered ? 't|' : "f|$error", "$name: test_webhook() says the same");
	}
	my ($request) = $receivers{good}->log;
	ok($request->{verified}{signature} && $request->{verified}{standard}, 'it is signed');

	# Of this name's addresses ::1 is refused, which is not what went wrong.
	my $port = $receivers{foreign}->port;
	webhook('two addresses', $receivers{foreign}, url => "https://localhost:$port/ok");
	like(deliver('two addresses'), $expected{foreign}, 'two addresses: the error is that of the one which is allowed');

	# These servers are refused for nothing but their version.
	SKIP:
	{
		my $port = $receivers{'TLS 1.1'}->port;
		my $hello = `openssl s_client -connect 127.0.0.1:$port -tls1_1 -cipher ALL:\@SECLEVEL=0 </dev/null 2>&1`;
		skip 'this openssl cannot speak TLS 1.1 at all', 1 if $hello !~ /Protocol *: TLSv1.1/;
		pass('a client that takes TLS 1.1 is served');
	}
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'chatwebhook.ca_file' => sub {
	# Changes take effect some time after the reload, on open connections too.
	my $becomes = sub {
		my ($file, $expected, $what) = @_;
		sql("ALTER SYSTEM SET chatwebhook.ca_file = '$file'");
		$node->reload;
		my $deadline = time + $timeout;
		my $last;
		do
		{
			$last = deliver('trust');
		} while ($last !~ $expected && time < $deadline);
		like($last, $expected, $what);
	};
	webhook('trust', $receivers{good}, max_retries => 0);
	is(deliver('trust'), 'delivered|1|', 'its authority is trusted');
	is(deliver('trust'), 'delivered|1|', 'on a connection that stays open');
	$becomes->("$directory/stranger.crt",
		qr/^dead\|1\|could not verify the server's certificate: /,
		'another is trusted instead: no more, though connected');
	$becomes->("$directory/nowhere.crt",
		qr/^dead\|1\|could not read chatwebhook.ca_file$/, 'the file is not there');
	append_to_file("$directory/nonsense.crt", "nonsense\n");
	$becomes->("$directory/nonsense.crt",
		qr/^dead\|1\|could not read chatwebhook.ca_file$/, 'there is no certificate in it');
	$becomes->('', qr/^dead\|1\|could not verify the server's certificate: /,
		'the system\'s authorities do not know ours');
	append_to_file("$directory/both.crt", slurp('stranger.crt') . slurp('authority.crt'));
	$becomes->("$directory/both.crt", qr/^delivered/, 'there may be several in the file');
	webhook('foreign', $receivers{foreign});
	is(deliver('foreign'), 'delivered|1|', 'all of which are trusted');
	sql('DELETE FROM chatwebhook.webhook');
	sql('ALTER SYSTEM RESET chatwebhook.ca_file');
	$node->restart;
	wait_until('SELECT count(*) > 0 FROM chatwebhook.worker_status');
};

foreach my $version ('1.2', '1.3')
{
	my $strict = receiver('good', '--tls' => $version, '--client-ca' => "$directory/authority.crt");

	subtest "client certificates in TLS $version" => sub {
		my %pem = map { $_ => slurp($_) } map { ("$_.crt", "$_.key") } 'alice', 'bob', 'mallory';
		my $missing = $version eq '1.3'
		  ? qr/^dead\|2\|the server ended the TLS connection: .*alert certificate required$/
		  : handshake_failed(qr/.*alert handshake failure/);
		my $unknown = $version eq '1.3'
		  ? qr/^dead\|2\|the server ended the TLS connection: .*alert unknown ca$/
		  : handshake_failed(qr/.*alert unknown ca/);
		my $unusable = qr/^dead\|2\|the webhook's client certificate or key is unusable$/;
		my %given = (
			'alice' => [ 'alice.crt', 'alice.key', qr/^delivered\|1\|$/ ],
			'bob' => [ 'bob.crt', 'bob.key', qr/^delivered\|1\|$/ ],
			'in one' => [ 'alice.crt+alice.key', undef, qr/^delivered\|1\|$/ ],
			'nobody' => [ undef, undef, $missing ],
			'mallory' =>
			  [ 'mallory.crt', 'mallory.key', $unknown ],
			'alice with another key' => [ 'alice.crt', 'bob.key', $unusable ],
			'alice without a key' => [ 'alice.crt', undef, $unusable ],
			'alice with a locked key' => [ 'alice.crt', 'locked.key', $unusable ],
			'nonsense' => [ 'nonsense', 'nonsense', $unusable ],
			'cut' => [ 'cut', 'alice.key', $unusable ]);
		$pem{'alice.crt+alice.key'} = $pem{'alice.crt'} . $pem{'alice.key'};
		$pem{'locked.key'} = slurp('locked.key');
		$pem{nonsense} = "nonsense\n";
		$pem{cut} = substr $pem{'alice.crt'}, 0, 300;

		# In the order of their names: whoever comes after alice meets her
		# connection, still open.
		my $try = sub {
			my ($name) = @_;
			my ($certificate, $key, $expected) = @{ $given{$name} };
			like(deliver($name), $expected, $name);
			my @clients = map { $_->{client} // 'nobody' } $strict->log($name);
			my $whose = $name eq 'in one' ? 'alice' : $name;
			is("@clients", $expected =~ /delivered/ ? $whose : '', "$name: seen by the receiver");
		};
		foreach my $name (sort keys %given)
		{
			my ($certificate, $key) = @{ $given{$name} };
			my %credentials = (
				defined $certificate ? (client_certificate => $pem{$certificate}) : (),
				defined $key ? (client_key => $pem{$key}) : ());
			my $checked = $name !~ /^(?:alice with a locked key|nonsense|cut)$/;
			webhook($name, $strict, $checked ? (credentials => \%credentials) : ());
			next if $checked;
			# set_credential() does not take these, but a restore would
			foreach my $credential (sort keys %credentials)
			{
				sql("SELECT chatwebhook._set_secret(id, '$credential',
						chatwebhook._seal(id, '$credential', '$credentials{$credential}'))
					   FROM chatwebhook.webhook WHERE name = '$name'");
			}
		}
		webhook('bystander', $receivers{good});
		foreach my $name (sort keys %given)
		{
			$try->($name);
		}
		is(deliver('bystander'), 'delivered|1|', 'another webhook is not affected');
		my ($bystander) = $receivers{good}->log('bystander');
		is($bystander->{client}, undef, 'and shows no certificate');

		# What is set anew holds from then on.
		my $id = sql("SELECT id FROM chatwebhook.webhook WHERE name = 'alice'");
		sql("SELECT chatwebhook.set_credential('$id', 'client_certificate', '$pem{'bob.crt'}'),
			chatwebhook.set_credential('$id', 'client_key', '$pem{'bob.key'}')");
		is(deliver('alice'), 'delivered|1|', 'a new certificate is used');
		is(($strict->log('alice'))[-1]{client}, 'bob', 'in place of the old one');
		sql("SELECT chatwebhook.set_credential('$id', 'client_certificate', NULL),
			chatwebhook.set_credential('$id', 'client_key', NULL)");
		like(deliver('alice'), $missing, 'without one it is refused again');
		is( sql("SELECT count(*) FROM (SELECT last_error FROM chatwebhook.delivery
				UNION ALL SELECT error FROM chatwebhook.attempt) AS t
				WHERE last_error ~ 'BEGIN|PRIVATE|CERTIFICATE-'"),
			0, 'no error shows any of it');
		sql('DELETE FROM chatwebhook.webhook');
	};
}

subtest 'Ed25519' => sub {
	my $good = $receivers{good};

	# Does the public key, whpk_ and base64, vouch for a request?  By Node.js: the
	# program openssl does that for Ed25519 since 3.0 only.
	my $verify = <<'END';
const [key, signature, message] = process.argv.slice(1).map((x) => Buffer.from(x, 'base64'));
// SubjectPublicKeyInfo of Ed25519 (RFC 8410)
const der = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), key]);
const publicKey = require('crypto').createPublicKey({ key: der, format: 'der', type: 'spki' });
console.log(require('crypto').verify(null, message, publicKey, signature));
END
	my $holds = sub {
		my ($public_key, $entry, $request) = @_;
		my ($key) = $public_key =~ /^whpk_(.*)$/;
		my ($signature) = $entry =~ /^v1a,(.*)$/;
		my $headers = $request->{headers};
		my $message = join '.', $headers->{'webhook-id'},
		  $headers->{'webhook-timestamp'}, $request->{body};
		my ($stdout) = run_command([ $ENV{NODE} // 'node', '-e', $verify, '--', $key // '',
			$signature // '', encode_base64($message, '') ]);
		return $stdout;
	};
	my $public_key = sub { return sql("SELECT chatwebhook.public_key('$_[0]')"); };
	my $last = sub { return ($good->log($_[0]))[-1]; };

	my ($id, $secret) = webhook('asymmetric', $good, signing => 'v1a');
	my ($other) = webhook('other', $good, signing => 'v1a');
	my ($symmetric) = webhook('symmetric', $good);
	like($secret, qr/^whsk_/, 'the secret is a private key');
	my $key = $public_key->($id);
	like($key, qr/^whpk_[A-Za-z0-9+\/]{43}=$/, 'the public key is 32 bytes');
	isnt($key, $public_key->($other), 'each webhook has its own');
	is($public_key->($symmetric), '', 'with a shared secret there is none');

	is(deliver('asymmetric'), 'delivered|1|', 'a request is sent');
	my $request = $last->('asymmetric');
	my $signature = $request->{headers}{'webhook-signature'};
	like($signature, qr/^v1a,[A-Za-z0-9+\/]{86}==$/, 'it has one signature');
	is($holds->($key, $signature, $request), 'true', 'which holds by the public key');
	is($holds->($public_key->($other), $signature, $request), 'false', 'by another it does not');
	is($holds->($key, $signature, { %$request, body => $request->{body} . ' ' }),
		'false', 'nor with another body');
	is($request->{headers}{'x-webhook-signature'}, undef, 'there is no HMAC of a private key');

	# Two keys overlap.
	my $fresh = sql("SELECT chatwebhook.rotate_secret('$id', '1 hour')");
	my $new_key = $public_key->($id);
	like($fresh, qr/^whsk_/, 'a rotation makes a private key again');
	isnt($new_key, $key, 'with another public key');
	is(deliver('asymmetric'), 'delivered|1|', 'a request during the overlap');
	$request = $last->('asymmetric');
	my @signatures = split / /, $request->{headers}{'webhook-signature'};
	is(scalar @signatures, 2, 'has two signatures');
	is($holds->($new_key, $signatures[0], $request), 'true', 'the first by the new key');
	is($holds->($key, $signatures[1], $request), 'true', 'the second by the old one');
	is($request->{headers}{'x-webhook-signature-previous'}, undef, 'and no HMAC of that');

	sql("SELECT chatwebhook.rotate_secret('$id', '0')");
	is(deliver('asymmetric'), 'delivered|1|', 'a request after a rotation without overlap');
	$request = $last->('asymmetric');
	like($request->{headers}{'webhook-signature'}, qr/^v1a,\S+$/, 'has one');
	is($holds->($public_key->($id), $request->{headers}{'webhook-signature'}, $request),
		'true', 'by the newest key');

	# From one kind to the other.
	sql("UPDATE chatwebhook.webhook SET signing = 'v1a' WHERE id = '$symmetric'");
	is(deliver('symmetric'), 'delivered|1|', 'a webhook changes to Ed25519');
	$request = $last->('symmetric');
	is($holds->($public_key->($symmetric), $request->{headers}{'webhook-signature'}, $request),
		'true', 'and has a key at once');
	sql("UPDATE chatwebhook.webhook SET signing = 'v1' WHERE id = '$symmetric'");
	$good->set_secret('symmetric', sql("SELECT chatwebhook.secret('$symmetric')"));
	is(deliver('symmetric'), 'delivered|1|', 'and back');
	$request = $last->('symmetric');
	ok($request->{verified}{signature} && $request->{verified}{standard}, 'with a secret again');
};

is(sql(q{SELECT coalesce(last_error, '') FROM chatwebhook.worker_status}),
	'', 'the worker has had no trouble of its own');
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP|terminated by signal/, 'no process has crashed');

$node->stop;
done_testing();
