# A dump and its restore.
#
# Only a restore can show that what pg_dump takes from the extension's tables comes
# back whole, beside what CREATE EXTENSION and the tables' triggers have put there
# in the meantime, and that deliveries go on from there: with the secrets that the
# receivers know, under ids that do not collide with earlier ones, and even if a
# worker is at work during the restore.  Roles see what they saw: pg_dump leaves out
# the policies of an extension's tables, so the rows of grantee must bring them.

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
my $node = new_node('main', 'chatwebhook.log_attempts' => 'all');
my $dumps = PostgreSQL::Test::Utils::tempdir('dumps');
my @roles = ('shop', 'shop user', 'boss', 'watcher', 'mon', 'twice', 'revoked', 'nobody');
my $catalog = slurp_file("$Chatwebhook::lib/catalog.sql")
  . q{ WHERE line ~ '^(policy|privilege|initial) ' ORDER BY line COLLATE "C"};

# Change settings by a reload.
sub set
{
	my (%settings) = @_;

	$node->append_conf('postgresql.conf', "$_ = '$settings{$_}'")
	  foreach sort keys %settings;
	$node->reload;
	becomes_true("SELECT current_setting('$_') = '$settings{$_}'",
		"$_ is '$settings{$_}'")
	  foreach sort keys %settings;
}

# Dump a database into a file.
sub dump_database
{
	my ($dbname, $file, @options) = @_;
	$node->command_ok(
		[ 'pg_dump', '--no-sync', @options, '--file' => "$dumps/$file", $dbname ],
		"dumped $dbname as $file");
}

# Restore a dump in SQL into a new database.
sub restore_sql
{
	my ($file, $dbname) = @_;
	sql("CREATE DATABASE $dbname TEMPLATE template0");
	$node->command_ok(
		[
			'psql', '-X', '-q',
			'-v' => 'ON_ERROR_STOP=1',
			'--dbname' => $dbname,
			'--file' => "$dumps/$file"
		],
		"restored $file into $dbname");
}

# Restore a dump in the custom format into a database.
sub restore_custom
{
	my ($file, $dbname, @options) = @_;
	$node->command_ok(
		[
			'pg_restore', '--exit-on-error', @options,
			'--dbname' => $dbname,
			"$dumps/$file"
		],
		"restored $file into $dbname @options");
}

# What is in each of the extension's tables, in an order of its own.
sub contents
{
	my ($dbname) = @_;
	my %contents;

	foreach my $table (
		qw(activity alert attempt connector dead deleted_webhook event event_type health history
		memory queue vault webhook))
	{
		$contents{$table} = sql_in($dbname,
			qq{SELECT to_jsonb(t) FROM chatwebhook.$table t
			    ORDER BY to_jsonb(t)::text COLLATE "C"});
	}
	$contents{grantee} = sql_in($dbname,
		q{SELECT role, access FROM chatwebhook.grantee WHERE role::text NOT IN ('revoked') AND role::text !~ '^\d'
		   ORDER BY role::text COLLATE "C", access});
	$contents{'what the catalog says of policies and privileges'} = sql_in($dbname,
		"SET search_path = pg_catalog; $catalog");
	$contents{"what $_ sees"} = seen_by($node, $_, dbname => $dbname, chatbot => 'bot-1')
	  foreach @roles;
	$contents{'what shop sees without a chatbot'} = seen_by($node, 'shop', dbname => $dbname);
	return \%contents;
}

# See that a database's tables are what they should be.
sub same_contents
{
	my ($expected, $dbname) = @_;

	# a copy would show that it is one
	sql_in($dbname, 'SELECT chatwebhook.adopt()');
	my $got = contents($dbname);

	is($got->{$_}, $expected->{$_}, "$dbname: $_") foreach sort keys %$expected;
}

# The numbers that a label's requests have carried as data.
sub numbers
{
	my ($label) = @_;
	return join ' ', sort { $a <=> $b }
	  map { $json->decode($_->{body})->{data}{n} } $receiver->log($label);
}

# See that every request carried the right signatures.
sub all_signed
{
	my @wrong =
	  grep { !$_->{verified}{standard} || !$_->{verified}{signature} }
	  $receiver->log;
	is(scalar(@wrong), 0, 'all was signed with the secrets of before');
}

# How many deliveries are in each state.
sub states
{
	my ($dbname) = @_;
	return sql_in($dbname,
		q{SELECT string_agg(status || ' ' || n, ', ' ORDER BY status)
		    FROM (SELECT status, count(*) AS n
		            FROM chatwebhook.delivery GROUP BY 1) AS s});
}

#
# A database with something of everything
#
script(q{
	CREATE TABLE message (n integer, bot text);
	CREATE TRIGGER emit AFTER INSERT ON message
		FOR EACH ROW EXECUTE FUNCTION
		chatwebhook.emit('order.placed', 'chatbotId=bot', 'n');
	CREATE SCHEMA visits;
	CREATE TABLE visits.visit (n integer, message integer);
	INSERT INTO chatwebhook.event_type (name, description, required) VALUES
		('order.placed', 'An order', '{n}'), ('order.paid', NULL, '{}');
	CREATE ROLE shop; CREATE ROLE "shop user" IN ROLE shop; CREATE ROLE boss; CREATE ROLE watcher;
	CREATE ROLE mon IN ROLE pg_monitor; CREATE ROLE twice; CREATE ROLE revoked; CREATE ROLE nobody;
	SELECT chatwebhook.grant_app('shop'), chatwebhook.grant_admin('boss'), chatwebhook.grant_reader('watcher'),
	       chatwebhook.grant_app('twice'), chatwebhook.grant_reader('twice');
	-- one that had access, and one that is no more: both leave their rows
	CREATE ROLE dropped;
	SELECT chatwebhook.grant_admin('dropped'), chatwebhook.grant_admin('revoked');
	DROP OWNED BY dropped, revoked;
	DROP ROLE dropped;
	CREATE FUNCTION note(event jsonb, webhook jsonb, replies jsonb)
		RETURNS chatwebhook.request LANGUAGE sql STABLE
		RETURN NULL::chatwebhook.request; -- which the catalog has parsed
	INSERT INTO chatwebhook.connector (name, function, signed, batches)
		VALUES ('note', 'public.note(jsonb,jsonb,jsonb)', true, true);
	UPDATE chatwebhook.event_type SET required = required || '{phone}'
	 WHERE name = 'lead.captured';
	UPDATE chatwebhook.event_type SET description = 'It''s over'
	 WHERE name = 'conversation.ended';
});
sql(q{SELECT chatwebhook.watch('visits.visit', 'order.placed', condition => 'NEW.n / NEW.n = 1',
	query => 'SELECT m.bot AS "chatbotId", NEW.n, to_jsonb(NEW) AS visit FROM message m WHERE m.n = NEW.message')});
my ($ok) = create_webhook($node,
	name => 'ok',
	headers => { 'X-Team' => 'sales' },
	events => ['order.*']);
my ($later, $secret) = create_webhook($node,
	name => 'later',
	path => '/down-until-told',
	filter => '$.data.n > 0',
	max_retries => 100,
	backoff => '1 s',
	backoff_multiplier => 1,
	max_backoff => '1 s',
	secret => 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
my ($dead) = create_webhook($node,
	name => 'dead',
	path => '/status/400',
	chatbot_id => 'bot-1');
create_webhook($node, name => 'deleted');
sql("DELETE FROM chatwebhook.webhook WHERE name = 'deleted'");
my ($gone) = create_webhook($node, name => 'gone', path => '/gone');
create_webhook($node, name => 'off', events => ['order.paid'], enabled => 'f', connector => 'note', batch_size => 10);
my $rotated = sql("SELECT chatwebhook.rotate_secret('$ok', '1 day')");
$receiver->set_secret('ok', $rotated);
# an event type that a webhook names and that is no more
sql(
	"DELETE FROM chatwebhook.event_type WHERE name = 'order.paid'");

sql(
	"INSERT INTO message SELECT n, 'bot-' || n FROM generate_series(1, 3) AS n");
ok($receiver->wait_for(3, 'ok'), 'three events have arrived');
becomes_true("SELECT count(*) = 3 FROM chatwebhook.queue
	  WHERE webhook_id = '$later' AND attempts > 0",
	'three are being retried');
becomes_true("SELECT count(*) = 1 FROM chatwebhook.dead WHERE webhook_id = '$dead'",
	'one is dead');
becomes_true("SELECT NOT enabled FROM chatwebhook.webhook WHERE id = '$gone'",
	'a webhook is gone');
becomes_true('SELECT count(*) = 1 FROM chatwebhook.alert',
	'there is an alert on it');
set('chatwebhook.enabled' => 'off');
becomes_true('SELECT coalesce(sum(in_flight), 0) = 0 FROM chatwebhook.worker_status',
	'nothing is under way');
sql("INSERT INTO message VALUES (4, 'bot-4')");
sql(
	"SELECT chatwebhook.cancel(max(id)) FROM chatwebhook.queue
	  WHERE webhook_id = '$ok'");
sql("INSERT INTO message VALUES (5, 'bot-5')");
sql(qq{INSERT INTO chatwebhook.memory (webhook_id, conversation_id, remembered) VALUES ('$ok', 'c1', '{"thread": "17.1"}')});
my $before = contents('postgres');
is(join(' ', grep { $before->{$_} eq '' } sort keys %$before), '',
	'there is something in every table');
my $newest = sql('SELECT max(id) FROM chatwebhook.queue');
unlike($before->{"what $_ sees"}, qr/ERROR: .*: webhook.name/, "$_ sees webhooks") foreach 'shop', 'boss', 'watcher', 'twice';
is(scalar(() = $before->{"what $_ sees"} =~ /ERROR:  permission denied/g), 19, "$_ sees nothing") foreach 'revoked', 'nobody';
like($before->{'what shop sees'}, qr/webhook.name: \w{32} 1$/m, 'the shop sees its own webhook');
like($before->{'what boss sees'}, qr/webhook.name: \w{32} 5$/m, 'and an administrator all');
like($before->{'what shop sees without a chatbot'}, qr/webhook.name:  *$/m, 'without a chatbot, the shop sees none');
is(sql(q{SELECT count(*) FROM chatwebhook.grantee WHERE role::text = 'revoked' OR role::text ~ '^\d'}), 2,
	'roles whose access was dropped are still in the table');

#
# As SQL
#
dump_database('postgres', 'plain.sql');
restore_sql('plain.sql', 'plain');
same_contents($before, 'plain');
is(sql_in('plain', q{SELECT count(*) FROM chatwebhook.grantee WHERE role::text = 'revoked' OR role::text ~ '^\d'}), 0,
	'but not in the dump');
is(sql_in('plain', "SELECT chatwebhook.secret('$later')"), $secret,
	'a webhook has the secret that it had');
is(sql_in('plain', "SELECT chatwebhook.secret('$ok')"), $rotated,
	'another the one that it was given');

# what is watched by a query is watched there, too, and dropped with its table
restore_sql('plain.sql', 'watches');
is(sql_in('watches', q{SELECT count(*), count(problem) FROM chatwebhook.watched WHERE relation = 'visits.visit'::regclass}), '1|0',
	'the watch has no problem');
sql_in('watches', 'INSERT INTO visits.visit VALUES (17, 2)');
is(sql_in('watches', 'SELECT chatbot_id, data FROM chatwebhook.event ORDER BY id DESC LIMIT 1'),
	'bot-2|{"n": 17, "visit": {"n": 17, "message": 2}}', 'and emit');
sql_in('watches', 'DROP TABLE visits.visit');
sql_in('watches', 'DROP SCHEMA visits');
sql('DROP DATABASE watches');

# and again from there
dump_database('plain', 'again.sql');
restore_sql('again.sql', 'again');
same_contents($before, 'again');
sql('DROP DATABASE again');

#
# In the custom format, where http is not allowed
#
set('chatwebhook.allow_http' => 'off', 'chatwebhook.allowed_networks' => '');
dump_database('postgres', 'custom', '--format=custom');
foreach my $options ([], ['--jobs=4'], ['--single-transaction'])
{
	sql('CREATE DATABASE custom TEMPLATE template0');
	restore_custom('custom', 'custom', @$options);
	same_contents($before, 'custom');
	sql('DROP DATABASE custom');
}
set(
	'chatwebhook.allow_http' => 'on',
	'chatwebhook.allowed_networks' => '127.0.0.0/8');

#
# Deliveries go on from there
#
# the first database must not send what is now the second's
sql('DROP EXTENSION chatwebhook CASCADE');
sql_in('plain', "INSERT INTO message VALUES (6, 'bot-6')");
is( sql_in('plain',
		q{SELECT string_agg(d.webhook_name, ' ' ORDER BY d.webhook_name)
		    FROM chatwebhook.delivery d
		    JOIN chatwebhook.event e ON e.id = d.event_id
		   WHERE e.data->>'n' = '6'}),
	'later ok',
	'the trigger emits for the webhooks that want it');
is( sql_in('plain',
		"SELECT count(*) FROM chatwebhook.delivery d
		   JOIN chatwebhook.event e ON e.id = d.event_id
		  WHERE e.data->>'n' = '6' AND d.id <= $newest"),
	0,
	'under new ids');
$receiver->reset;
$receiver->set(up => ['later']);
set('chatwebhook.enabled' => 'on');
ok(wait_idle($node, dbname => 'plain'), 'idle');
is(numbers('later'), '1 2 3 4 5 6',
	'what waited for its retry, what was pending, and what is new');
like(numbers('ok'), qr/^(4|5) 6$/, 'but for what was canceled');
all_signed();
is( sql_in('plain',
		"SELECT chatwebhook.retry(id) FROM chatwebhook.dead_letter
		  WHERE webhook_id = '$dead'"),
	't',
	'what was dead can be retried');

#
# With a worker at work
#
sql_in('plain',
	q{UPDATE chatwebhook.webhook SET enabled = name IN ('ok', 'later')});
ok(wait_idle($node, dbname => 'plain'), 'idle');
set('chatwebhook.enabled' => 'off');
sql_in('plain',
	"INSERT INTO message SELECT n, 'bot-' || n FROM generate_series(101, 300) AS n");
my $pending = sql_in('plain', 'SELECT count(*) FROM chatwebhook.queue');
cmp_ok($pending, '>=', 400, 'there is a long queue');
dump_database('plain', 'busy', '--format=custom');
sql_in('plain', 'DROP EXTENSION chatwebhook CASCADE');
set('chatwebhook.enabled' => 'on');
foreach my $options ([], ['--jobs=4'])
{
	$receiver->reset;
	$receiver->set(up => ['later']);
	sql('CREATE DATABASE busy TEMPLATE template0');
	restore_custom('busy', 'busy', @$options, '--section=pre-data');
	becomes_true_in('busy', 'SELECT count(*) > 0 FROM chatwebhook.worker_status',
		'a worker is there');
	restore_custom('busy', 'busy', @$options, '--section=data',
		'--section=post-data');
	# With several jobs, the queue may come last, and its rows wake nobody: then
	# chatwebhook.poll_interval finds them, which is long here.
	$node->reload;
	is($receiver->count, 0, 'nothing is sent');
	sql_in('busy', 'SELECT chatwebhook.adopt()');
	ok(wait_idle($node, dbname => 'busy'), 'idle');
	is(numbers($_), join(' ', 101 .. 300), "all has arrived at $_")
	  foreach 'ok', 'later';
	all_signed();
	sql('DROP DATABASE busy WITH (FORCE)');
}

#
# And with one that looks at every stage of a slow restore
#
my ($list) = run_command([ 'pg_restore', '--list', "$dumps/busy" ]);

# Restore the rows of these tables.
sub restore_tables
{
	my (@tables) = @_;
	my $wanted = join '|', @tables;

	append_to_file("$dumps/$tables[0].list",
		join "\n", grep { /TABLE DATA chatwebhook ($wanted) / } split /\n/,
		$list);
	restore_custom('busy', 'slow', "--use-list=$dumps/$tables[0].list");
}

# Have a new worker look at everything, and prove that it has.
sub worker_looks
{
	my $n = $receiver->count('witness');

	$node->restart;
	sql_in('slow',
		"SELECT chatwebhook.emit('witness.wanted', NULL, NULL, NULL)");
	ok($receiver->wait_for($n + 1, 'witness'), 'a worker has looked');
	becomes_true_in('slow',
		'SELECT sum(in_flight) = 0 FROM chatwebhook.worker_status',
		'and is done with that');
}

$receiver->reset;
$receiver->set(up => ['later']);
sql('CREATE DATABASE slow TEMPLATE template0');
restore_custom('busy', 'slow', '--section=pre-data');
restore_tables('identity');
sql_in('slow', 'SELECT chatwebhook.adopt()');
sql_in('slow',
	"INSERT INTO chatwebhook.event_type (name) VALUES ('witness.wanted')");
create_webhook($node,
	dbname => 'slow',
	name => 'witness',
	events => ['witness.wanted']);
restore_tables('event', 'queue');
worker_looks();
becomes_true_in('slow',
	"SELECT count(*) = 1 FROM chatwebhook.delivery WHERE status = 'delivered'",
	'the witness has got its own');
is(states('slow'), "delivered 1, pending $pending",
	'what has no webhook yet waits');
restore_tables('webhook');
worker_looks();
becomes_true_in('slow',
	"SELECT count(*) = 2 FROM chatwebhook.delivery WHERE status = 'delivered'",
	'the witness has got its own');
is($receiver->count - $receiver->count('witness'),
	0, 'what has no secret yet waits');
is(states('slow'), "delivered 2, pending $pending", 'and is not given up');
restore_tables('vault', 'health', 'history', 'dead', 'attempt');
ok(wait_idle($node, dbname => 'slow'), 'idle');
is(numbers($_), join(' ', 101 .. 300), "all has arrived at $_")
  foreach 'ok', 'later';
all_signed();

done_testing();
