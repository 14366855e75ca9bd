# Where secrets are, and where they are not, once there is a key file.
#
# Only a whole cluster can show this: its dump, every file of its data directory,
# its log, its views as every role, a core image of a session.  And only a worker
# at work shows what becomes of deliveries when the key is changed, wrong, lost or
# unreadable, and when it is back.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use File::Find ();
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $directory = PostgreSQL::Test::Utils::tempdir('keys');
my $key_file = "$directory/key";
my @keys = map { new_key() } 1 .. 3;
write_key($keys[0]);

# nothing listens there any more
my $closed = start_receiver();
$closed->stop;
my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.secret_key_file' => $key_file,
	'log_statement' => 'none',
	'log_min_messages' => 'debug1',
	'log_min_error_statement' => 'panic',
	'wal_level' => 'replica');

# A key as an administrator makes one.
sub new_key
{
	my ($key, $err) = run_command([ 'openssl', 'rand', '-hex', '32' ]);
	return $key;
}

# Give the key file this content and mode.
sub write_key
{
	my ($content, $mode) = @_;
	unlink $key_file;
	open my $file, '>', $key_file or die "could not create \"$key_file\": $!";
	print $file "$content\n";
	close $file;
	chmod $mode // 0600, $key_file or die "could not chmod \"$key_file\": $!";
}

# Emit events that every webhook gets.
sub emit
{
	my ($n) = @_;
	sql("SELECT chatwebhook.emit('message.sent', 'bot', NULL, '{\"role\": \"bot\", \"content\": \"x\"}')
		 FROM generate_series(1, " . ($n // 1) . ")");
	return;
}

# The requests with such an event.
sub sent
{
	return scalar grep { $_->{headers}{'x-webhook-event'} eq 'message.sent' } $receiver->log;
}

# The requests of a label that are not signed as they should be.
sub unsigned
{
	my ($label) = @_;
	return scalar grep { !$_->{verified}{signature} || !$_->{verified}{standard} } $receiver->log($label);
}

# A file, as it is.
sub slurp_binary
{
	my ($name) = @_;
	open my $file, '<:raw', $name or return '';
	local $/;
	my $content = <$file>;
	return $content // '';
}

my %secrets;

# Which secrets are in a text, as they are or in hexadecimal, or a part of them.
sub found_in
{
	my ($text) = @_;
	my @found;
	foreach my $name (sort keys %secrets)
	{
		foreach my $form ($secrets{$name}, substr($secrets{$name}, -24), unpack('H*', $secrets{$name}))
		{
			push @found, $name if index($text, $form) >= 0;
		}
	}
	return join ' ', @found;
}

# No secret is there.
sub is_clean
{
	my ($text, $what) = @_;
	cmp_ok(length $text, '>', 0, "$what: there is something") or return;
	return is(found_in($text), '', "$what has no secret");
}

#
# Secrets of every kind, used in every way
#
script(q{CREATE ROLE reader; CREATE ROLE admin; CREATE ROLE app; CREATE ROLE monitor IN ROLE pg_monitor; CREATE ROLE nobody;
	SELECT chatwebhook.grant_reader('reader'), chatwebhook.grant_admin('admin'), chatwebhook.grant_app('app')});
my ($ok, $ok_secret) = create_webhook($node, name => 'ok', events => ['message.sent']);
my ($bad) = create_webhook($node, name => 'bad', path => '/status/400/-/bad/{{path_token}}?key={{query_token}}', enabled => 'f',
	headers => { 'Authorization' => 'Bearer {{header_token}}', 'X-Api-Key' => '{{header_token}}' }, chatbot_id => 'bot');
my ($echo) = create_webhook($node, name => 'closed', url => $closed->url('/{{path_token}}'), max_retries => 1, backoff => '10 ms', enabled => 'f');
my ($whole) = create_webhook($node, name => 'whole', url => '{{url}}', max_retries => 0, enabled => 'f');
my ($tls) = create_webhook($node, name => 'tls', url => 'https://127.0.0.1:' . $receiver->port . '/{{path_token}}', max_retries => 0, enabled => 'f');
my ($asymmetric) = create_webhook($node, name => 'asymmetric', signing => 'v1a');
my ($both) = create_webhook($node, name => 'both', signing => 'v1,v1a', events => ['webhook.test'], headers => { 'X-Mac' => 'v1={{$hmac_sha256}}' });
my ($unset) = create_webhook($node, name => 'unset', events => ['message.sent'], url => $receiver->url('/ok/-/unset/{{not_set}}'));
$secrets{'signing secret'} = $ok_secret;
$secrets{'Ed25519 key'} = sql("SELECT chatwebhook.secret('$asymmetric')");
$secrets{'secret beside a key'} = sql("SELECT chatwebhook.secret('$both')");
$secrets{'key beside a secret'} =
  sql("SELECT chatwebhook._open(webhook_id, name, value) FROM chatwebhook.vault WHERE webhook_id = '$both' AND name = 'signing_key'");
$secrets{'secret of one refused'} = sql("SELECT chatwebhook.secret('$bad')");
$secrets{'path token'} = 'PATHTOKEN-' . new_key();
$secrets{'query token'} = 'QUERYTOKEN-' . new_key();
$secrets{'header token'} = 'HEADERTOKEN-' . new_key();
$secrets{'url'} = $receiver->url('/status/500/-/whole/URLTOKEN-' . new_key());
sql("SELECT chatwebhook.set_credential('$_->[0]', '$_->[1]', '$_->[2]')") foreach (
	[ $bad, 'path_token', $secrets{'path token'} ],
	[ $bad, 'query_token', $secrets{'query token'} ],
	[ $bad, 'header_token', $secrets{'header token'} ],
	[ $echo, 'path_token', $secrets{'path token'} ],
	[ $tls, 'path_token', $secrets{'path token'} ],
	[ $whole, 'url', $secrets{'url'} ]);
sql("UPDATE chatwebhook.webhook SET enabled = true WHERE id <> '$unset'");
becomes_true("SELECT state = 'paused' AND problem = 'the credential \"not_set\" is not set' FROM chatwebhook.webhook_health WHERE webhook_id = '$unset'",
	'a credential that is not set pauses its webhook, and is named');
is(sql("SELECT count(*) FROM chatwebhook.alert WHERE webhook_id = '$unset'"), 0, 'without an alert while nothing waits');
emit(2);
$node->reload;
becomes_true("SELECT message = 'nothing can be sent: the credential \"not_set\" is not set' FROM chatwebhook.alert
	WHERE webhook_id = '$unset' AND kind = 'webhook_disabled' AND closed_at IS NULL", 'there is one once something does');
is(sql("SELECT w.enabled, h.pending FROM chatwebhook.webhook w JOIN chatwebhook.webhook_health h ON h.webhook_id = w.id WHERE w.id = '$unset'"),
	't|2', 'it is enabled, and its events wait');
my @told = slurp_binary($node->logfile) =~ /LOG:  chatwebhook cannot send to webhook "unset": /g;
is(scalar @told, 1, 'the log has said so once');
sql("SELECT chatwebhook.set_credential('$unset', 'not_set', 'set')");
ok(wait_idle($node), 'once it is set, the worker is done');
is($receiver->count('unset/set'), 2, 'what waited has arrived');
becomes_true("SELECT state = 'healthy' AND problem IS NULL AND NOT EXISTS (SELECT FROM chatwebhook.alert a WHERE a.webhook_id = '$unset' AND closed_at IS NULL)
	FROM chatwebhook.webhook_health WHERE webhook_id = '$unset'", 'the problem is gone, and the alert closed');
my ($spy) = create_webhook($node, name => 'spy', chatbot_id => 'spy', headers => { 'X-Key' => '{{signing_secret}}' });
becomes_true("SELECT problem = 'the credential \"signing_secret\" is never part of a request' FROM chatwebhook.webhook_health WHERE webhook_id = '$spy'",
	'a secret that signs is no credential: it is never filled in');
sql("UPDATE chatwebhook.webhook SET headers = '{\"X-Key\": \"{{signing_key}}\"}' WHERE id = '$spy'");
becomes_true("SELECT problem = 'the credential \"signing_key\" is never part of a request' FROM chatwebhook.webhook_health WHERE webhook_id = '$spy'",
	'nor is a private key');
sql("DELETE FROM chatwebhook.webhook WHERE id = '$spy'");
my ($refused) = grep { index($_->{path}, 'PATHTOKEN') >= 0 } $receiver->log;
is($refused->{headers}{authorization}, "Bearer $secrets{'header token'}", 'credentials have reached the receiver');
like($refused->{query}, qr/\Q$secrets{'query token'}\E/, 'in the URL, too');
is($receiver->count('ok') . '/' . unsigned('ok'), '2/0', 'signatures hold');
my ($test) = sql("SELECT chatwebhook.test_webhook('$whole')") . sql("SELECT chatwebhook.test_webhook('$echo')")
  . sql("SELECT chatwebhook.test_webhook('$bad')") . sql("SELECT chatwebhook.test_webhook('$both')");

my $rotated = sql("SELECT chatwebhook.rotate_secret('$ok')");
$secrets{'rotated secret'} = $rotated;
$receiver->set_secret('ok', [ $ok_secret, $rotated ]);

is_clean($test, 'what test_webhook() gives');
foreach my $role ('reader', 'admin', 'app', 'monitor', 'nobody', sql('SELECT current_user'))
{
	my $all = '';
	foreach my $relation (split /\n/, sql("SELECT oid::regclass FROM pg_class WHERE relnamespace = 'chatwebhook'::regnamespace AND relkind IN ('r', 'v')"))
	{
		my ($out, $err) = ('', '');
		$node->psql('postgres', "SET ROLE $role; SET chatwebhook.chatbot = 'bot'; SELECT * FROM $relation", stdout => \$out, stderr => \$err, on_error_stop => 0);
		$all .= "$relation $out $err\n";
	}
	is_clean($all, "every table and view as $role");
	like($all, qr/path_token.*query_token/, 'which are there: it sees how they are used') if $role eq 'app';
}
like(sql('SELECT string_agg(last_error, \' \') FROM chatwebhook.delivery'), qr/HTTP status 400/, 'failures have said why');
like(sql("SELECT url FROM chatwebhook.webhook_health WHERE name = 'bad'"), qr/\{\{path_token\}\}/, 'a placeholder is shown as it was written');
is_clean(sql('SELECT string_agg(a::text, \' \') FROM pg_stat_activity a WHERE pid <> pg_backend_pid()'), 'pg_stat_activity');
is(sql('SELECT bool_and(get_byte(value, 0) = 1), bool_or(secrets_encrypted) FROM chatwebhook.vault, chatwebhook.worker_status'),
	't|t', 'everything in the vault is encrypted, and worker_status says so');

subtest 'a core image of a session that was shown no secret' => sub {
	plan skip_all => 'gdb is not there' if !grep { -x "$_/gdb" } split /:/, $ENV{PATH};
	# the statements above had credentials as literals, and pg_stat_activity's
	# shared memory keeps a session's last one until the slot is used again
	$node->restart;
	my ($in, $out, $timer) = ('', '', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	my $handle = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', '-' ], '<', \$in, '>', \$out, $timer);
	$in .= "INSERT INTO chatwebhook.webhook (name, url) SELECT 'made ' || n, 'https://example.com/' FROM generate_series(1, 20) n;\n"
	  . "UPDATE chatwebhook.webhook SET signing = 'v1a' WHERE name IN ('made 1', 'made 2');\n"
	  . "UPDATE chatwebhook.webhook SET signing = 'v1,v1a' WHERE name = 'made 3';\n"
	  . "SELECT chatwebhook.rekey();\n"
	  . "UPDATE chatwebhook.webhook SET enabled = false WHERE name LIKE 'made%';\n"
	  . "SELECT 'pid ' || pg_backend_pid();\n";
	$handle->pump until $out =~ /^pid (\d+)$/m;
	my ($pid) = $out =~ /^pid (\d+)$/m;
	my $core = "$directory/core";
	my ($stdout, $stderr) = run_command([ 'gdb', '-nx', '-batch', '-p', $pid, '-ex', "generate-core-file $core" ]);
	my $image = slurp_binary($core);
	unlink $core;
	$in .= "\\q\n";
	$handle->finish;
	if ($image eq '')
	{
		plan skip_all => "gdb cannot attach here: $stderr";
	}
	plan tests => 3;
	%secrets = (%secrets, map { split /\|/ } split /\n/,
		sql("SELECT name, chatwebhook.secret(id) FROM chatwebhook.webhook WHERE name LIKE 'made%'"));
	is(scalar(grep { /^made/ } keys %secrets), 20, 'twenty secrets were made in it');
	ok(index($image, "SELECT 'pid ' || pg_backend_pid()") >= 0, 'the image has the session\'s statement');
	is(found_in($image), '', 'and no secret');
	sql("DELETE FROM chatwebhook.webhook WHERE name LIKE 'made%'");
};

subtest 'files' => sub {
	my ($dump, $err) = run_command([ 'pg_dumpall', '-d', $node->connstr('postgres'), '--no-sync' ]);
	like($dump, qr/COPY chatwebhook\.vault/, 'pg_dumpall has dumped the vault');
	is_clean($dump, 'its output');
	$node->stop;
	is_clean(slurp_binary($node->logfile), 'the server\'s log, at debug1');
	my ($files, @found) = (0);
	File::Find::find({ no_chdir => 1, wanted => sub {
		return if !-f $_;
		$files++;
		my $found = found_in(slurp_binary($_));
		push @found, "$_: $found" if $found ne '';
	} }, $node->data_dir);
	cmp_ok($files, '>', 500, 'the data directory has files');
	is(join(', ', @found), '', 'none of them has a secret, nor has the WAL');
	$node->start;
	becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'the worker is there again');
	unlike(slurp_binary($node->logfile), qr/are not encrypted/, 'it has not said that secrets are not encrypted');
};
sql("DELETE FROM chatwebhook.webhook WHERE id NOT IN ('$ok', '$asymmetric')");

subtest 'the key is changed while deliveries go on' => sub {
	my $count = $receiver->count('ok');
	my $under_old = sql("SELECT count(DISTINCT substr(value, 2, 8)) FROM chatwebhook.vault");
	is($under_old, 1, 'all is under one key');
	write_key("# the new one\n$keys[1]\n# and the old\n$keys[0]");
	emit(50);
	my $moved = sql('SELECT chatwebhook.rekey()');
	is($moved, sql('SELECT count(*) FROM chatwebhook.vault'), 'rekey() moves everything');
	emit(50);
	is(sql('SELECT chatwebhook.rekey()'), 0, 'once');
	write_key($keys[1]);
	emit(1);
	ok(wait_idle($node), 'the worker is done');
	is($receiver->count('ok') - $count, 101, 'everything was sent');
	is(unsigned('ok'), 0, 'and signed');
	is(sql("SELECT chatwebhook.secret('$ok')"), $rotated, 'the secret is the same');
	is(sql("SELECT count(*) FROM chatwebhook.webhook WHERE NOT enabled"), 0, 'no webhook was disabled');
};

# Kubernetes mounts the files of a secret as links into a directory that it replaces.
subtest 'the file is a link that is turned' => sub {
	my $count = $receiver->count('ok');
	my @versions = map { "$directory/..version_$_" } 1, 2;
	write_key($keys[1]);
	mkdir $versions[0] or die "could not make \"$versions[0]\": $!";
	mkdir $versions[1] or die "could not make \"$versions[1]\": $!";
	rename $key_file, "$versions[0]/key" or die "could not rename \"$key_file\": $!";
	write_key("$keys[2]\n$keys[1]");
	rename $key_file, "$versions[1]/key" or die "could not rename \"$key_file\": $!";
	symlink $versions[0], "$directory/..data" or die "could not link: $!";
	symlink '..data/key', $key_file or die "could not link \"$key_file\": $!";
	is(sql('SELECT chatwebhook.rekey()'), 0, 'the key behind the link is the same');
	symlink $versions[1], "$directory/..data_new" or die "could not link: $!";
	rename "$directory/..data_new", "$directory/..data" or die "could not turn the link: $!";
	is(sql('SELECT chatwebhook.rekey()'), sql('SELECT count(*) FROM chatwebhook.vault'), 'once it is turned, there is a new one');
	emit(1);
	ok(wait_idle($node), 'the worker is done');
	is($receiver->count('ok') - $count, 1, 'it has sent');
	is(unsigned('ok'), 0, 'and signed');
	# back to the first key and a plain file
	unlink "$versions[1]/key";
	write_key("$keys[1]\n$keys[2]");
	is(sql('SELECT chatwebhook.rekey()'), sql('SELECT count(*) FROM chatwebhook.vault'), 'a file replaces it');
	write_key($keys[1]);
};

# Rewritten in place, as large as before, within a second and with the same time
# of its last change, a file differs from what it was in its inode's time only.
subtest 'the file is rewritten at once' => sub {
	my $write = sub {
		my ($key) = @_;
		open my $file, '>', $key_file or die "could not write \"$key_file\": $!";
		print $file "$key\n";
		close $file;
		utime 1_000_000_000, 1_000_000_000, $key_file or die "could not touch \"$key_file\": $!";
		return (Time::HiRes::stat($key_file))[10];
	};
	my ($before, $after);
	do
	{
		$before = $write->($keys[1]);
		is(sql("SELECT chatwebhook.secret('$ok')"), $rotated, 'the key opens the secret');
		# the file system's clock may have stood still meanwhile
		do { $after = $write->($keys[2]) } until $after != $before;
	} until int $after == int $before;
	ok(!eval { sql("SELECT chatwebhook.secret('$ok')"); 1 }, 'with another, the same session cannot open it');
	like($@, qr/cannot open the secret "signing_secret": .*key/, 'and says why');
	$write->($keys[1]);
	is(sql("SELECT chatwebhook.secret('$ok')"), $rotated, 'and can when the key is back');
};

subtest 'no key opens them' => sub {
	my $broken = substr($keys[1], 0, 60);
	my @cases = (
		[ 'another key', sub { write_key($keys[2]) }, qr/key/ ],
		[ 'the file is gone', sub { unlink $key_file }, qr/could not open it/ ],
		[ 'its group may read it', sub { write_key($keys[1], 0640) }, qr/mode must be 0600/ ],
		[ 'others may read it', sub { write_key($keys[1], 0604) }, qr/mode must be 0600/ ],
		[ 'broken content', sub { write_key($broken) }, qr/64 hexadecimal digits/ ],
		[ 'an empty file', sub { write_key('') }, qr/no key/ ],
		[ 'binary content', sub { write_key("\x00\xff" x 5000) }, qr/64 hexadecimal digits|too long/ ],
		[ 'a directory', sub { unlink $key_file; mkdir $key_file }, qr/not a regular file/ ],
		[ 'no setting', sub { sql("ALTER SYSTEM SET chatwebhook.secret_key_file = ''") }, qr/key/ ]);
	foreach my $case (@cases)
	{
		my ($what, $do, $reason) = @$case;
		my $count = $receiver->count;
		my $sent = sent();
		$do->();
		$node->restart;
		emit(2);
		becomes_true("SELECT count(*) = 2 FROM chatwebhook.webhook_health WHERE state = 'paused' AND problem IS NOT NULL", "$what: the webhooks are paused");
		my $said = sql("SELECT problem FROM chatwebhook.webhook_health WHERE webhook_id = '$ok'");
		like($said, qr/cannot open the secret "\w+": .*$reason/, "$what: the reason is clear");
		unlike($said, qr/\Q$broken\E/, 'and has nothing of a key');
		becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status WHERE in_flight = 0', 'the worker goes on');
		my (undef, undef, $err) = $node->psql('postgres', "SELECT chatwebhook.secret('$ok')");
		like($err, qr/cannot open the secret "signing_secret"/, 'secret() says so too');
		like(sql("SELECT success, error FROM chatwebhook.test_webhook('$ok')"),
			qr/^f\|cannot open the secret/, 'so does test_webhook()');
		is($receiver->count, $count, 'nothing was sent');
		becomes_true("SELECT count(*) = 2 FROM chatwebhook.alert WHERE kind = 'webhook_disabled' AND closed_at IS NULL", 'there are alerts');
		emit(1);

		# back again
		rmdir $key_file;
		write_key($keys[1]);
		sql('ALTER SYSTEM RESET chatwebhook.secret_key_file');
		$node->reload;
		becomes_true('SELECT bool_and(secrets_encrypted) FROM chatwebhook.worker_status', 'the key is back');
		ok(wait_idle($node), 'the worker is done');
		is(sent() - $sent, 6, 'all that was emitted meanwhile has arrived');
		is(unsigned('ok'), 0, 'all is signed');
		becomes_true("SELECT bool_and(problem IS NULL AND state = 'healthy') AND NOT EXISTS (SELECT FROM chatwebhook.alert WHERE closed_at IS NULL)
			FROM chatwebhook.webhook_health", 'there is no problem and no alert any more');
		is(sql('SELECT count(*) FROM chatwebhook.webhook WHERE NOT enabled OR disabled_reason IS NOT NULL'), 0, 'no webhook was disabled');
		# the end of an alert is an event as well
		ok(wait_idle($node), 'the worker is done with all of it');
	}

	# one whose events were queued before the key was lost
	write_key($keys[2]);
	$node->append_conf('postgresql.conf', 'chatwebhook.enabled = off');
	$node->restart;
	my $count = $receiver->count('ok');
	emit(5);
	$node->append_conf('postgresql.conf', 'chatwebhook.enabled = on');
	$node->reload;
	becomes_true("SELECT problem IS NOT NULL FROM chatwebhook.webhook_health WHERE webhook_id = '$ok'", 'with five pending, it has a problem');
	is(sql("SELECT pending FROM chatwebhook.webhook_health WHERE webhook_id = '$ok'"), 5, 'they wait');
	# a secret that is set anew needs no old key; the receiver has it first
	my ($in, $out, $timer) = ("BEGIN; SELECT chatwebhook.rotate_secret('$ok', '0');\n", '', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	my $handle = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', '-' ], '<', \$in, '>', \$out, $timer);
	$handle->pump until $out =~ /\n/;
	like($out, qr/^whsec_/, 'a new secret can be made');
	chomp $out;
	$receiver->set_secret('ok', $out);
	$in .= "COMMIT;\n\\q\n";
	$handle->finish;
	becomes_true("SELECT pending = 0 FROM chatwebhook.webhook_health WHERE webhook_id = '$ok'", 'and with it they go out');
	is($receiver->count('ok') - $count, 5, 'all five were sent');
	is(scalar(grep { !$_->{verified}{signature} } ($receiver->log('ok'))[ -5 .. -1 ]), 0, 'under the new secret');
};

subtest 'a secret stays where it belongs' => sub {
	write_key("$keys[1]\n$keys[2]");
	my ($other) = create_webhook($node, name => 'other');
	sql("UPDATE chatwebhook.vault SET value = (SELECT value FROM chatwebhook.vault WHERE webhook_id = '$ok' AND name = 'signing_secret')
		 WHERE webhook_id = '$other' AND name = 'signing_secret'");
	my (undef, undef, $err) = $node->psql('postgres', "SELECT chatwebhook.secret('$other')");
	like($err, qr/cannot open the secret/, 'a value that was copied to another webhook does not open');
	emit();
	becomes_true("SELECT problem IS NOT NULL FROM chatwebhook.webhook_health WHERE webhook_id = '$other'", 'which cannot be sent to');
	sql("DELETE FROM chatwebhook.webhook WHERE id = '$other'");
};

subtest 'without a key file' => sub {
	script("DELETE FROM chatwebhook.webhook; ALTER SYSTEM SET chatwebhook.secret_key_file = ''");
	my $read = -s $node->logfile;
	$node->restart;
	becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'the worker is there');
	is(sql('SELECT secrets_encrypted FROM chatwebhook.worker_status'), 'f', 'worker_status says that nothing is encrypted');
	my ($plain, $secret) = create_webhook($node, name => 'plain');
	emit();
	ok(wait_idle($node), 'the worker is done');
	is($receiver->count('plain') . '/' . unsigned('plain'), '1/0', 'it delivers');
	is(sql("SELECT convert_from(value, 'UTF8') FROM chatwebhook.vault WHERE get_byte(value, 0) <> 0"), '', 'secrets are plain');
	is(sql("SELECT convert_from(substr(value, 2), 'UTF8') FROM chatwebhook.vault"), $secret, 'as they are');
	sql("UPDATE chatwebhook.webhook SET max_retries = 1");
	emit();
	ok(wait_idle($node), 'the worker is done');
	my @said = slurp_file($node->logfile, $read) =~ /LOG:  the secrets of chatwebhook in database "postgres" are not encrypted/g;
	is(scalar @said, 1, 'the worker has said so once');
	$read = -s $node->logfile;
	$node->restart;
	$node->wait_for_log(qr/are not encrypted/, $read) if $node->can('wait_for_log');
	becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'the worker is there');
	@said = slurp_file($node->logfile, $read) =~ /are not encrypted/g;
	is(scalar @said, 1, 'and once more after a restart');

	# a key file is introduced
	sql('ALTER SYSTEM RESET chatwebhook.secret_key_file');
	$node->reload;
	becomes_true('SELECT bool_and(secrets_encrypted) FROM chatwebhook.worker_status', 'with a key file, they can be');
	is(sql("SELECT chatwebhook.secret('$plain')"), $secret, 'what is plain still opens');
	is(sql('SELECT chatwebhook.rekey()'), 1, 'until it is encrypted');
	is(sql('SELECT get_byte(value, 0) FROM chatwebhook.vault'), 1, 'which it is then');
	emit();
	ok(wait_idle($node), 'the worker is done');
	is($receiver->count('plain') . '/' . unsigned('plain'), '3/0', 'deliveries go on');
};

$node->stop;
done_testing();
