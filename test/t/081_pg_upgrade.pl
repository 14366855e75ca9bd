# pg_upgrade.
#
# Only a cluster that was upgraded can show that pg_upgrade takes the extension
# with everything in its tables, that no worker gets in its way, and that the new
# cluster goes on where the old one stopped: with its secrets, without a repeat,
# and with ids that go on ascending.  The version is the same on both sides, which
# pg_upgrade does not mind.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->canonical->allow_nonref;
my $receiver = start_receiver();
my $key_file = PostgreSQL::Test::Utils::tempdir('keys') . '/key';
append_to_file($key_file, 'ab' x 32 . "\n");
chmod 0600, $key_file or die "could not change \"$key_file\": $!";
my %settings = (
	# no webhook is paused for its failures, of which there may be many where all is slow
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.secret_key_file' => $key_file);
my $old = new_node('old', %settings);
my $new = new_node('new', -extension => 0, %settings);
# but for the text of views, which comes out of a dump with more casts
my $catalog = 'SET search_path = pg_catalog; '
  . slurp_file("$Chatwebhook::lib/catalog.sql")
  . q{ WHERE line NOT LIKE 'rule of %' ORDER BY line COLLATE "C"};

# What is in each of the extension's tables, and what two views make of it.
sub contents
{
	my ($node) = @_;
	my %contents;

	$contents{$_} = $node->safe_psql('postgres',
		qq{SELECT to_jsonb(t) FROM (SELECT * FROM $_) AS t ORDER BY to_jsonb(t)::text COLLATE "C"})
	  foreach 'chatwebhook.delivery', 'chatwebhook.webhook_health',
	  split /\n/, $node->safe_psql('postgres', q{
			SELECT c::regclass FROM pg_extension, unnest(extconfig) AS c
			 WHERE extname = 'chatwebhook' AND c <> 'chatwebhook.identity'::regclass});
	$contents{"what $_ sees"} = seen_by($node, $_, chatbot => 'bot-1')
	  foreach 'shop', 'boss', 'watcher', 'mon', 'nobody';
	$contents{'what shop sees without a chatbot'} = seen_by($node, 'shop');
	return \%contents;
}

# The numbers that a label's requests have carried as data.
sub numbers
{
	my ($label) = @_;
	return join ' ', sort { $a <=> $b }
	  map { $json->decode($_->{body})->{data}{n} } $receiver->log($label);
}

# Turn sending off, and wait until nothing is under way.
sub switch_off
{
	my ($node) = @_;
	$node->append_conf('postgresql.conf', 'chatwebhook.enabled = off');
	$node->reload;
	$node->poll_query_until('postgres', q{
		SELECT NOT current_setting('chatwebhook.enabled')::boolean
		   AND sum(in_flight) = 0 FROM chatwebhook.worker_status})
	  or die "sending is not off\n";
}

#
# Something of everything
#
$old->safe_psql('postgres', q{
	CREATE ROLE shop LOGIN; CREATE ROLE boss; CREATE ROLE watcher; CREATE ROLE mon IN ROLE pg_monitor; CREATE ROLE nobody;
	SELECT chatwebhook.grant_app('shop'), chatwebhook.grant_admin('boss'), chatwebhook.grant_reader('watcher');
	CREATE TABLE message (n integer, bot text);
	CREATE TRIGGER emit AFTER INSERT ON message
		FOR EACH ROW EXECUTE FUNCTION
		chatwebhook.emit('order.placed', 'chatbotId=bot', 'n');
	INSERT INTO chatwebhook.event_type (name, required) VALUES ('order.placed', '{n}');
	CREATE TABLE visit (n integer, message integer);
	SELECT chatwebhook.watch('visit', 'order.placed',
		query => 'SELECT m.bot AS "chatbotId", NEW.n FROM message m WHERE m.n = NEW.message');
	CREATE FUNCTION note(event jsonb, webhook jsonb, replies jsonb)
		RETURNS chatwebhook.request LANGUAGE sql STABLE
		RETURN NULL::chatwebhook.request; -- which the catalog has parsed
	INSERT INTO chatwebhook.connector (name, function)
		VALUES ('note', 'public.note(jsonb,jsonb,jsonb)')});
my ($ok) = create_webhook($old, name => 'ok', events => ['order.*']);
my ($later, $secret) = create_webhook($old, name => 'later', events => ['order.*'],
	path => '/down-until-told', chatbot_id => 'bot-1', max_retries => 100,
	backoff => '1 s', backoff_multiplier => 1, max_backoff => '1 s');
create_webhook($old, name => 'dead', events => ['order.*'], path => '/status/400', max_retries => 0);
create_webhook($old, name => 'deleted');
$old->safe_psql('postgres', q{DELETE FROM chatwebhook.webhook WHERE name = 'deleted'});
create_webhook($old, name => 'gone', events => ['order.*'], path => '/gone', chatbot_id => 'bot-1');
$old->safe_psql('postgres', qq{
	SELECT chatwebhook.set_credential('$ok', 'token', 't0ken');
	INSERT INTO chatwebhook.memory (webhook_id, chatbot_id, conversation_id, remembered)
	VALUES ('$ok', NULL, 'c1', '{"thread": "17.1"}');
	UPDATE chatwebhook.webhook SET headers = '{"X-Token": "{{token}}"}' WHERE id = '$ok';
	INSERT INTO message SELECT n, 'bot-1' FROM generate_series(1, 3) AS n;
	INSERT INTO chatwebhook.event_key (digest, event_id, created_at)
		SELECT sha256('once'), max(id::text)::uuid, now() FROM chatwebhook.event});
ok($old->poll_query_until('postgres', qq{
		SELECT count(*) FILTER (WHERE webhook_name = 'ok' AND status = 'delivered') = 3
		   AND count(*) FILTER (WHERE webhook_name = 'dead' AND status = 'dead') = 3
		   AND count(*) FILTER (WHERE webhook_name = 'later' AND attempts > 0) = 3
		   AND (SELECT count(*) = 1 FROM chatwebhook.alert)
		  FROM chatwebhook.delivery}),
	'some is delivered, some dead, some waits for a retry, a webhook is gone');
switch_off($old);
$old->safe_psql('postgres',
	q{INSERT INTO message SELECT n, 'bot-1' FROM generate_series(4, 20) AS n});
my $before = contents($old);
is(join(' ', grep { $before->{$_} eq '' } sort keys %$before), '',
	'there is something in every table');
my $catalog_before = $old->safe_psql('postgres', $catalog);
my $newest = $old->safe_psql('postgres', q{
	SELECT max(id) FROM chatwebhook.delivery});
my $delivered = $receiver->count('ok');
is($delivered, 3, 'the rest is still to come');
$old->stop;
$new->stop;

#
# pg_upgrade, which starts both clusters as they are, with sending on in one
#
my $directory = PostgreSQL::Test::Utils::tempdir('upgrade');
chdir $directory or die "could not change to \"$directory\": $!";
$old->append_conf('postgresql.conf', 'chatwebhook.enabled = on');
$new->command_ok(
	[
		'pg_upgrade', server_major() >= 15 ? '--no-sync' : (),
		'--old-datadir' => $old->data_dir,
		'--new-datadir' => $new->data_dir,
		'--old-bindir' => $old->config_data('--bindir'),
		'--new-bindir' => $new->config_data('--bindir'),
		'--socketdir' => $new->host,
		'--old-port' => $old->port,
		'--new-port' => $new->port
	],
	'pg_upgrade');
is($receiver->count('ok'), $delivered, 'which sends nothing');

#
# The new cluster, first as it came
#
$new->append_conf('postgresql.conf', 'chatwebhook.enabled = off');
$new->start;
my $after = contents($new);
is($after->{$_}, $before->{$_}, "$_ is as it was") foreach sort keys %$before;
my %there = map { $_ => 1 } split /\n/, $catalog_before;
my %here = map { $_ => 1 } split /\n/, $new->safe_psql('postgres', $catalog);
is( join("\n",
		(map { "- $_" } grep { !$here{$_} } sort keys %there),
		(map { "+ $_" } grep { !$there{$_} } sort keys %here)),
	'', 'and so is what the catalog says');
is($new->safe_psql('postgres', "SELECT chatwebhook.secret('$later')"), $secret,
	'a secret can be read');
is( $new->safe_psql('postgres', q{
		SET ROLE shop; SET chatwebhook.chatbot = 'bot-1';
		SELECT string_agg(name, ' ' ORDER BY name) FROM chatwebhook.webhook}),
	'gone later', 'an app sees its own');
# granting again, and taking back, finds what the upgrade has brought
$new->safe_psql('postgres', q{
	SET ROLE boss; SELECT chatwebhook.grant_app('shop'), chatwebhook.revoke_access('watcher')});
is(seen_by($new, 'shop', chatbot => 'bot-1'), $before->{'what shop sees'}, 'and it does when it is granted that again');
is(seen_by($new, 'watcher') =~ s/watcher/nobody/gr, $before->{'what nobody sees'}, 'another one no more when its access is revoked');
is($new->safe_psql('postgres', q{SELECT count(*) FROM pg_policies WHERE roles = '{watcher}'}), 0, 'and has no policies');
ok($new->poll_query_until('postgres',
		'SELECT count(*) = 1 FROM chatwebhook.worker_status'),
	'a worker is there');

#
# Then it goes on
#
$new->safe_psql('postgres', q{INSERT INTO message VALUES (21, 'bot-1')});
is( $new->safe_psql('postgres',
		"SELECT count(*) FROM chatwebhook.queue WHERE id > $newest"),
	3, 'ids go on rising');
is($new->safe_psql('postgres', q{
		SELECT count(*), bool_and(i.system_identifier = s.system_identifier)
		  FROM chatwebhook.identity i, pg_control_system() s}),
	'1|t', 'it is no copy, but has moved to another cluster');
$receiver->set(up => ['later']);
$new->append_conf('postgresql.conf', 'chatwebhook.enabled = on');
$new->reload;
ok(wait_idle($new), 'the queue is drained');
is(numbers('ok'), join(' ', 1 .. 21), 'each event has arrived once');
is(numbers('dead'), join(' ', 1 .. 21), 'and where it is refused');
my %seen = map { $_ => 1 } split / /, numbers('later');
is(join(' ', sort { $a <=> $b } keys %seen), join(' ', 1 .. 21),
	'what waited for its retry has, too');
is( $new->safe_psql('postgres', q{
		SELECT count(*), count(DISTINCT id) FROM chatwebhook.delivery
		 WHERE webhook_name = 'later' AND status = 'delivered'}),
	'21|21', 'and is delivered once each');
is( scalar(grep {
			!$_->{verified}{standard}
			  || ($_->{label} eq 'ok' && $_->{headers}{'x-token'} ne 't0ken')
		} $receiver->log('ok'), $receiver->log('later')),
	0, 'all with the secrets and the credential of before');
$new->safe_psql('postgres', q{INSERT INTO visit VALUES (22, 21)});
ok(wait_idle($new), 'a row is inserted that is watched by a query');
is(numbers('ok'), join(' ', 1 .. 22), 'its event arrives, too');
my @errors = grep { /^\S+ \S+ \S+ \[\d+\] (ERROR|WARNING|PANIC):/ }
  map { split /\n/, slurp_file($_->logfile) } $old, $new;
is(scalar(grep { !/alert about webhook/ } @errors), 0, 'no worker has met an error')
  or diag(@errors);

done_testing();
