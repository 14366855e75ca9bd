# A server that makes it hard: prepared transactions, settings of the database and
# of its roles that would be in a worker's way, no free connection, no free lock, few
# files.
#
# Only a whole server can be brought into these states, and only requests that
# arrive show that deliveries go on in them: the worker looks for events by itself
# only once an hour here.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";
use Chatwebhook;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.connector_timeout' => '1min',	# a session that compiles everything takes long
	max_prepared_transactions => 10,
	max_connections => 12,
	superuser_reserved_connections => 3,
	max_worker_processes => 8,
	max_locks_per_transaction => 10,
	restart_after_crash => 'on',
	autovacuum => 'off');

script(q{
	CREATE TABLE chat (id serial, chatbot text, conversation text, email text);
	INSERT INTO chatwebhook.event_type (name) VALUES ('t.chat'), ('t.call');
	CREATE TRIGGER emit AFTER INSERT ON chat FOR EACH ROW EXECUTE FUNCTION
		chatwebhook.emit('t.chat', 'chatbotId=chatbot', 'conversationId=conversation', 'email');
});
create_webhook($node, name => 'chat', events => ['t.chat']);
create_webhook($node, name => 'call', events => ['t.call']);

sub chat { return "INSERT INTO chat (chatbot, email) VALUES ('bot', '$_[0]');"; }

sub worker_pid
{
	wait_until('SELECT count(*) = 1 FROM chatwebhook.worker_status')
	  or die "there is no worker\n";
	return sql('SELECT pid FROM chatwebhook.worker_status');
}

#
# Prepared transactions.
#
my $sent = 0;
script('BEGIN;' . chat('first') . "PREPARE TRANSACTION 'first'");
script('BEGIN;' . chat('second') . "PREPARE TRANSACTION 'second'");
script('BEGIN;' . chat('rolled back') . "PREPARE TRANSACTION 'third'");
sql(chat('in between'));
ok($receiver->wait_for(++$sent, 'chat'), 'an event of another transaction is sent');
is(sql('SELECT count(*) FROM chatwebhook.delivery'), 1,
	'those that are prepared are not to be seen');
sql("COMMIT PREPARED 'first'");
ok($receiver->wait_for(++$sent, 'chat'), 'COMMIT PREPARED sends');

$node->restart;
worker_pid();
sql(chat('after the restart'));
ok($receiver->wait_for(++$sent, 'chat'), 'the worker delivers after a restart');
is($receiver->count('chat'), $sent, 'and nothing of what is still prepared');
sql("ROLLBACK PREPARED 'third'");
sql("COMMIT PREPARED 'second'");
ok($receiver->wait_for(++$sent, 'chat'), 'COMMIT PREPARED after a restart');
ok(wait_idle($node), 'all is delivered');
my @emails = map { $_->{body} =~ /"email":"([^"]*)"/ } $receiver->log('chat');
is_deeply(
	\@emails,
	[ 'in between', 'first', 'after the restart', 'second' ],
	'each once, and nothing of what was rolled back');

#
# Settings of the database and of the role.
#
my %settings = (
	default_transaction_read_only => 'on',
	default_transaction_isolation => 'serializable',
	default_transaction_deferrable => 'on',
	statement_timeout => '1ms',
	lock_timeout => '1ms',
	idle_in_transaction_session_timeout => '1ms',
	idle_session_timeout => '1ms',
	transaction_timeout => '1ms',
	row_security => 'off',
	search_path => 'hostile, public',
	session_replication_role => 'replica',
	default_tablespace => 'nowhere',
	temp_tablespaces => 'nowhere',
	default_table_access_method => 'nothing',
	DateStyle => 'SQL, DMY',
	IntervalStyle => 'sql_standard',
	TimeZone => 'Pacific/Chatham',
	bytea_output => 'escape',
	extra_float_digits => '-15',
	standard_conforming_strings => 'off',
	escape_string_warning => 'on',
	backslash_quote => 'off',
	transform_null_equals => 'on',
	array_nulls => 'off',
	quote_all_identifiers => 'on',
	work_mem => '64kB',
	temp_buffers => '800kB',
	temp_file_limit => '64kB',
	enable_indexscan => 'off',
	enable_indexonlyscan => 'off',
	enable_bitmapscan => 'off',
	enable_seqscan => 'off',
	enable_nestloop => 'off',
	enable_sort => 'off',
	enable_hashagg => 'off',
	force_parallel_mode => 'on',
	debug_parallel_query => 'on',
	parallel_setup_cost => '0',
	parallel_tuple_cost => '0',
	min_parallel_table_scan_size => '0',
	jit => 'on',
	jit_above_cost => '0',
	plan_cache_mode => 'force_custom_plan',
	client_min_messages => 'error',
	log_statement => 'all',
	synchronous_commit => 'off',
	'plpgsql.variable_conflict' => 'use_column',
	'plpgsql.extra_errors' => 'all',
	from_collapse_limit => '1',
	join_collapse_limit => '1',
	lo_compat_privileges => 'on',
	xmloption => 'document',
	xmlbinary => 'hex',
	vacuum_cost_delay => '100ms',
	commit_delay => '100000');

# What a session sees of it all, however it is set up.
sub figures
{
	my (%environment) = @_;
	local @ENV{ keys %environment } = values %environment;
	return script(q{
		SET DateStyle = ISO; SET TimeZone = UTC; SET IntervalStyle = postgres;
		SET extra_float_digits = 1; SET bytea_output = hex; SET array_nulls = on;
		SELECT w.state, w.total, w.successes, w.failures, w.success_rate,
		       w.avg_latency_ms, w.p95_latency_ms, w.pending, w.dead, w.last_success_at
		  FROM chatwebhook.webhook_health w ORDER BY w.name;
		SELECT md5(string_agg(d::text, '/' ORDER BY d.id)) FROM chatwebhook.delivery d;
		SELECT md5(string_agg(e::text, '/' ORDER BY e.id)) FROM chatwebhook.event e;
		SELECT w.id, p.method, p.url, p.headers - 'X-Webhook-Signature' - 'webhook-signature' - 'webhook-timestamp' - 'webhook-id', p.body
		  FROM chatwebhook.webhook w, chatwebhook.preview(w.id,
		    '{"id": "0198c0de-0000-7000-8000-000000000000", "type": "lead.captured", "timestamp": "2026-01-02T03:04:05.678Z",
		      "chatbotId": "bot", "conversationId": null, "data": {"email": "a_b@example.com", "source": "x*y"}}') p
		 ORDER BY name;
		SELECT chatwebhook.sign('body', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
		SELECT chatwebhook.sign('evt_1', '2026-01-02 03:04:05+00', 'body', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
		SELECT count(*) FROM chatwebhook.alert;
		SELECT count(*) FROM chatwebhook.dead_letter;
		SELECT count(*) FROM regexp_matches(chatwebhook.metrics_text(), '^chatwebhook', 'gn');
		SELECT count(*) FROM chatwebhook.worker_status;
	});
}

# The same through a connector, whose functions do much with strings.
sql(q{CREATE ROLE tenant LOGIN SUPERUSER});
create_webhook($node, name => 'discord', connector => 'discord', events => ['t.call'],
	url => $receiver->url('/ok/-/discord'));
sub call
{
	my ($n) = @_;
	return qq{SELECT count(*) FROM (SELECT chatwebhook.emit('t.call', 'bot', 'c',
		'{"text": "*a* _b_ [c] - d 1.5", "n": 0.1}') FROM generate_series(1, $n)) c;};
}
sql(call(5));
ok($receiver->wait_for(5, $_), "five events for $_") foreach 'call', 'discord';
ok(wait_idle($node), 'they are delivered');
my ($discord) = map { $_->{body} } $receiver->log('discord');
my ($call) = map { $_->{body} =~ s/^.*"data"//r } $receiver->log('call');

my $figures = figures();
is(scalar(split /\n/, $figures), 14, 'the figures are there') or diag($figures);
sql('CREATE SCHEMA hostile');
# what is not there in this version, or not to be set, is left out; 19 takes
# no other value for that of strings
delete $settings{standard_conforming_strings} if sql('SHOW server_version_num') >= 190000;
my $known = sql("SELECT string_agg(lower(name), ',') FROM pg_settings") . ',plpgsql.variable_conflict,plpgsql.extra_errors';
my $all = '';
foreach my $name (sort keys %settings)
{
	next if index(",$known,", ',' . lc $name . ',') < 0;
	my $value = $name eq 'search_path' ? $settings{$name} : "'$settings{$name}'";
	$all .= "ALTER DATABASE postgres SET $name = $value;\n"
	  . "ALTER ROLE tenant SET $name = $value;\n"
	  . "ALTER ROLE CURRENT_USER SET $name = $value;\n";
}
# whoever must have something done says so as any client can
my $way_out = '-c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off'
  . ' -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0'
  . ' -c default_transaction_deferrable=off -c default_tablespace= -c temp_file_limit=-1'
  . ' -c transaction_timeout=0';
# a parallel worker begins with what its database says, whatever its leader says
$way_out .= ' -c max_parallel_workers_per_gather=0 -c max_parallel_maintenance_workers=0'
  if index(",$known,", ',transaction_timeout,') >= 0;
$way_out =~ s/ -c (\w+)=\S*/index(",$known,", ",$1,") < 0 ? '' : $&/ge;
my ($status, $stdout, $stderr) = $node->psql('postgres', $all);
is($status, 0, 'hostile settings for the database and its roles') or diag($stderr);
{
	local $ENV{PGOPTIONS} = $way_out;
	my $pid = worker_pid();
	# the worker reads what its database says when it begins
	$node->restart;
	isnt(worker_pid(), $pid, 'the worker has begun anew');
	is(script('SHOW default_transaction_isolation; SHOW bytea_output'),
		"serializable\nescape", 'sessions have these settings');
	is(figures(), $figures, 'views and functions give the same figures');
	is(figures(PGUSER => 'tenant'), $figures, 'to the other role, too');

	sql(call(20));
	ok($receiver->wait_for(25, $_), "events are sent to $_") foreach 'call', 'discord';
	ok(wait_idle($node), 'and settled');
	is((map { $_->{body} } $receiver->log('discord'))[-1] =~ s/\d{4}-\d\d-\d\dT[0-9:.]*Z//gr,
		$discord =~ s/\d{4}-\d\d-\d\dT[0-9:.]*Z//gr, 'the connector says the same');
	is((map { $_->{body} =~ s/^.*"data"//r } $receiver->log('call'))[-1], $call,
		'and so do bodies');

	sql('CREATE DATABASE other');
	($status, $stdout, $stderr) = $node->psql('other', 'CREATE EXTENSION chatwebhook');
	is($status, 0, 'CREATE EXTENSION works in such a session') or diag(substr $stderr, 0, 300);
	sql('DROP DATABASE other');

	# a trigger fires, too, unless the session is a replica
	local $ENV{PGOPTIONS} = "$way_out -c session_replication_role=local";
	sql("INSERT INTO public.chat (chatbot, email) VALUES ('bot', 'hostile')");
	ok($receiver->wait_for(++$sent, 'chat'), 'a chat row is sent');
	ok(wait_idle($node), 'and settled');

	# while somebody holds the rows that are to be settled
	my $session = $node->background_psql('postgres');
	create_webhook($node, name => 'held', events => ['t.chat'],
		path => '/hang-until-told', timeout => '5 minutes');
	sql("INSERT INTO public.chat (chatbot, email) VALUES ('bot', 'held')");
	$receiver->wait_for(1, 'held');
	$receiver->wait_for(++$sent, 'chat');
	$session->query_safe(q{BEGIN ISOLATION LEVEL READ COMMITTED;
		SELECT q.id FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id
		 WHERE w.name = 'held' FOR UPDATE OF q});
	$receiver->set(up => ['held']);
	sql(call(1));
	ok($receiver->wait_for(26, 'call'), 'a lock on one row holds up no other');
	becomes_true(q{
			SELECT count(*) = 0 FROM chatwebhook.delivery
			 WHERE status = 'pending' AND webhook_name <> 'held'},
		'they are settled');
	$session->query_safe('COMMIT');
	$session->quit;
	ok(wait_idle($node), 'and that one is settled when it is let go');
	is($receiver->count('held'), 1, 'after one request');
}
{
	# psql must get to its second statement
	local $ENV{PGOPTIONS} = join ' ', $way_out =~ /-c (?:idle_session|transaction)_timeout=0/g;
	($status, $stdout, $stderr) = $node->psql('postgres', q{
		SET statement_timeout = 0; SELECT chatwebhook.emit('t.call', null, null, '{}')});
	like($stderr, qr/cannot execute chatwebhook\.emit\(\) in a read-only transaction|canceling statement due to statement timeout/,
		'emit() in a session that is read-only is an error that says so');
}
{
	local $ENV{PGOPTIONS} = "$way_out -c default_transaction_read_only=on -c session_replication_role=local";
	($status, $stdout, $stderr) = $node->psql('postgres',
		q{SELECT chatwebhook.emit('t.call', null, null, '{}')});
	like($stderr, qr/ERROR:  cannot execute chatwebhook\.emit\(\) in a read-only transaction/,
		'emit() in a transaction that is read-only by default is an error that says so');
}
{
	local $ENV{PGOPTIONS} = $way_out;
	is(sql(q{SELECT coalesce(last_error, '') FROM chatwebhook.worker_status}), '',
		'the worker has met no error');
	script('ALTER DATABASE postgres RESET ALL; ALTER ROLE CURRENT_USER RESET ALL; ALTER ROLE tenant RESET ALL');
	$node->restart;
	worker_pid();
}

#
# No connection is free.
#
{
	end_sessions();
	$node->poll_query_until('postgres', q{
		SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'})
	  or die 'there are other sessions';
	my @idle;
	push @idle, $node->background_psql('postgres') foreach 1 .. 12;
	($status, $stdout, $stderr) = $node->psql('postgres', 'SELECT 1');
	like($stderr, qr/too many clients|remaining connection slots/,
		'no connection is free, not even a superuser\'s');
	my $session = $idle[0];
	my $sent_calls = $receiver->count('call');
	$session->query_safe(call(1));
	ok($receiver->wait_for(++$sent_calls, 'call'), 'the worker delivers');
	my $pid = $session->query_safe('SELECT pid FROM chatwebhook.worker_status');
	$session->query_safe("SELECT pg_terminate_backend($pid)");
	$session->query_safe(call(1));
	ok($receiver->wait_for(++$sent_calls, 'call'), 'one that was ended comes back');
	isnt($session->query_safe('SELECT pid FROM chatwebhook.worker_status'), $pid,
		'as another process');
	($status, $stdout, $stderr) = $node->psql('postgres', 'SELECT 1');
	like($stderr, qr/too many clients|remaining connection slots/,
		'although there is still no connection free');
	$_->quit foreach @idle;
	wait_until('SELECT true') or die 'there is still none';
}

#
# No lock is free.
#
{
	create_webhook($node, name => 'last', events => ['t.chat'],
		path => '/hang-until-told', timeout => '5 minutes');
	sql(chat('last'));
	ok($receiver->wait_for(1, 'last'), 'a request is under way');
	my $pid = worker_pid();
	my $session = $node->background_psql('postgres');
	$session->query_safe(q{
		DO $$ BEGIN
			FOR i IN 1 .. 100000 LOOP
				BEGIN
					PERFORM pg_advisory_lock(i);
				EXCEPTION WHEN out_of_memory THEN EXIT;
				END;
			END LOOP;
		END $$});
	($status, $stdout, $stderr) = $node->psql('postgres', call(1));
	like($stderr, qr/out of shared memory/, 'then no lock is free');
	$receiver->set(up => ['last']);
	ok($receiver->wait_until(sub { $receiver->log('last') }), 'it is answered');
	my $before = $receiver->count('call');
	$session->quit;
	wait_until(q{SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'})
	  or die;
	sql(call(5));
	ok($receiver->wait_for($before + 5, 'call'), 'the worker goes on when there are some');
	ok(wait_idle($node), 'and settles');
	is($receiver->count('last'), 1, 'what was answered was sent once');
	is(worker_pid(), $pid, 'by the same process');
}

#
# As few files as a process can do with, of which a worker has a third for sockets.
#
$node->append_conf('postgresql.conf', 'max_files_per_process = 64');
$node->restart;
worker_pid();
{
	sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('t.few')});
	create_webhook($node, name => 'few', events => ['t.few'], path => '/close');
	sql(q{SELECT count(chatwebhook.emit('t.few', NULL, NULL, '{}')) FROM generate_series(1, 200)});
	ok(wait_idle($node), 'many more connections than there can be at a time');
	is(sql(q{SELECT count(*), sum(attempts) FROM chatwebhook.delivery WHERE webhook_name = 'few' AND status = 'delivered'}),
		'200|200', 'each delivers, at the first attempt');
}

$node->stop;
done_testing();
