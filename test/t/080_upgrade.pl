# Updating the extension.
#
# Only a database whose SQL is older than the library can show that events are
# stored there and wait, that the worker says what has to be done and begins by
# itself once it is, that ALTER EXTENSION UPDATE leaves everything as it was,
# and that the catalog is then the one that CREATE EXTENSION makes.  The same
# for SQL that is newer than the library.
#
# 1.0.0 is the first release, so there is no older version to update from.  The test
# makes up the next one, in an installation of its own: there, today's SQL is
# version 0.9, and the library's version has some changes on top of it.

use strict;
use warnings;

use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use File::Path qw(make_path);
use FindBin;
use lib "$FindBin::Bin/../lib";
use Chatwebhook;
use IPC::Run;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->canonical->allow_nonref;
my $receiver = start_receiver();
my ($install, $scripts) = make_installation();
my $node = new_node('main', -install => $install, -extension => 0,
	'chatwebhook.log_attempts' => 'all');
my $catalog = slurp_file("$Chatwebhook::lib/catalog.sql");
my $version = $node->safe_psql('postgres',
	q{SELECT default_version FROM pg_available_extensions
	   WHERE name = 'chatwebhook'});

# An installation of PostgreSQL to which scripts of extensions can be added: the
# server looks for them beside itself, so it is a copy, and all else leads to
# the usual one.  Returns its directory, and the one of the scripts.
sub make_installation
{
	my %from = map { chomp(my $path = `pg_config --$_`); $_ => $path } qw(bindir sharedir pkglibdir);
	my $top = PostgreSQL::Test::Utils::tempdir('installation');
	my $common = $from{bindir};
	$common = dirname($common) while grep { index($_, "$common/") != 0 } @from{qw(sharedir pkglibdir)};
	my %to = map { $_ => $top . substr $from{$_}, length $common } keys %from;

	make_path($to{bindir}, "$to{sharedir}/extension", dirname($to{pkglibdir}));
	foreach my $program (qw(postgres initdb pg_ctl pg_config))
	{
		copy("$from{bindir}/$program", $to{bindir}) && chmod 0755, "$to{bindir}/$program"
		  or die "could not copy $program: $!\n";
	}
	my @links = (
		[ $from{pkglibdir} => $to{pkglibdir} ],
		[ "$from{bindir}/psql" => "$to{bindir}/psql" ],
		(map { [ $_ => "$to{sharedir}/" . basename $_ ] }
			grep { basename($_) ne 'extension' } glob "$from{sharedir}/*"),
		(map { [ $_ => "$to{sharedir}/extension/" . basename $_ ] }
			glob "$from{sharedir}/extension/*"));
	symlink $_->[0], $_->[1] or die "could not link to $_->[0]: $!\n" foreach @links;
	return (dirname($to{bindir}), "$to{sharedir}/extension");
}

# A database with the extension, in this version.
sub new_database
{
	my ($dbname, $which) = @_;
	sql("CREATE DATABASE $dbname");
	sql_in($dbname, "CREATE EXTENSION chatwebhook VERSION '$which'");
}

# What the catalog of a database says, as a list of lines.
sub catalog
{
	my ($dbname) = @_;
	return split /\n(?=\S+ ?[^\n]*: )/,
	  sql_in($dbname, qq{SET search_path = pg_catalog; $catalog ORDER BY line COLLATE "C"});
}

# Lines of the first list that are not in the second.
sub missing
{
	my ($these, $those) = @_;
	my %there = map { $_ => 1 } @$those;
	return grep { !$there{$_} } @$these;
}

# See that two lists of lines are the same.
sub same_lines
{
	my ($got, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @more = map { "+ $_" } missing($got, $expected);
	my @less = map { "- $_" } missing($expected, $got);
	ok(!@more && !@less && @$got == @$expected, $name)
	  or diag(join "\n", map { substr $_, 0, 300 } @less, @more);
}

# How often the log says that a database has another version.
sub warnings_of
{
	my ($dbname) = @_;
	my @lines = slurp_file($node->logfile) =~
	  /WARNING:  chatwebhook's library is of version \S+, but the extension in database "$dbname" is of version /g;
	return scalar @lines;
}

# Wait until a database has that many workers.
sub has_workers
{
	my ($dbname, $n, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	becomes_true(qq{
		SELECT count(*) = $n FROM pg_stat_activity
		 WHERE backend_type = 'chatwebhook worker' AND datname = '$dbname'}, $name);
}

# See that the launcher looks around, without anybody's being started there.
sub look_around
{
	my ($dbname) = @_;
	our $witness = ($witness // 0) + 1;
	$node->reload;
	sql("CREATE DATABASE witness_$witness");
	sql_in("witness_$witness", 'CREATE EXTENSION chatwebhook');
	# the one that it was told of last has its worker: it is through
	has_workers("witness_$witness", 1, 'a worker comes elsewhere');
	# and no other is still looking
	has_workers($dbname, 0, "none stays in $dbname");
	sql("DROP DATABASE witness_$witness");
}

#
# The versions that there are
#
is(sql('SHOW chatwebhook.user_agent'), "chatwebhook/$version",
	'the library is of the version that CREATE EXTENSION makes');
my @former = split /\n/, sql(qq{
	SELECT DISTINCT source FROM pg_extension_update_paths('chatwebhook')
	 WHERE string_to_array(source, '.')::integer[] < string_to_array('$version', '.')::integer[]});
is( sql(qq{
		SELECT string_agg(source, ' ') FROM pg_extension_update_paths('chatwebhook')
		 WHERE target = '$version' AND path IS NULL AND source IN ('@{[ join "', '", @former ]}')}),
	'',
	'every former version can be updated to it');
new_database('released', $version);
my @released = catalog('released');
foreach my $former (split /\n/, sql(qq{
	SELECT version FROM pg_available_extension_versions
	 WHERE name = 'chatwebhook' AND version IN ('@{[ join "', '", @former ]}')}))
{
	(my $dbname = "released_$former") =~ tr/./_/;
	new_database($dbname, $former);
	sql_in($dbname, 'ALTER EXTENSION chatwebhook UPDATE');
	same_lines([ catalog($dbname) ], \@released, "an update from $former gives what CREATE EXTENSION does");
}

#
# The next version: something of each kind that an update can have to do
#
my $today = slurp_file("$scripts/chatwebhook--$version.sql");
my $next = $today;

# Change the next version's script, where it has this once.
sub change
{
	my ($pattern, $by) = @_;
	my $n = () = $next =~ /$pattern/g;
	die "$n places in the script are like $pattern\n" if $n != 1;
	$next =~ s/$pattern/$by->()/e;
	return;
}

# A function, as the next version's script has it, to be created or replaced.
sub function_of
{
	my ($name) = @_;
	my ($text) = $next =~ /^(CREATE FUNCTION chatwebhook\.$name\(.*?^\$\$;\n)/ms
	  or die "no function $name is in the script\n";
	return $text =~ s/CREATE/CREATE OR REPLACE/r;
}

# a column, at the end of its table
change(qr/^(CREATE TABLE chatwebhook\.event \([^;]*?)\n\)/m, sub { "$1,\n    source text\n)" });
# a function with another body, and one with an argument more
change(qr/^(CREATE FUNCTION chatwebhook\.retry\(delivery_id bigint\)[^\$]*\$\$\n)/m,
	sub { "$1-- the next version's\n" });
change(qr/^(CREATE FUNCTION chatwebhook\.cancel\(delivery_id bigint)\)/m,
	sub { "$1, reason text DEFAULT NULL)" });
change(qr/^(COMMENT ON FUNCTION chatwebhook\.cancel\(bigint)\)/m, sub { "$1, text)" });
# an object that is new, with rights on it, and properties of others
my $new = q{
COMMENT ON COLUMN chatwebhook.event.source IS 'Where it came from.';
CREATE FUNCTION chatwebhook.sources() RETURNS SETOF text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT DISTINCT source FROM chatwebhook.event $$;
COMMENT ON FUNCTION chatwebhook.sources() IS 'Where events came from.';
REVOKE ALL ON FUNCTION chatwebhook.sources() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION chatwebhook.sources() TO pg_monitor;
CREATE INDEX alert_opened_idx ON chatwebhook.alert (opened_at);
ALTER TABLE chatwebhook.history SET (autovacuum_analyze_threshold = 40000);
ALTER TABLE chatwebhook.event ALTER chatbot_id SET STATISTICS 0;
};
$next .= $new;

my ($comment) = $next =~ /^(COMMENT ON FUNCTION chatwebhook\.cancel\(.*?;\n)/ms
  or die "no comment on cancel() is in the script\n";
my $update = q{\echo Use "ALTER EXTENSION chatwebhook UPDATE" to load this file. \quit
-- while a vacuum of this one is awaited, nobody else has to wait
LOCK TABLE chatwebhook.history IN SHARE UPDATE EXCLUSIVE MODE;
-- in the order in which others lock them
LOCK TABLE chatwebhook.queue, chatwebhook.event IN ACCESS EXCLUSIVE MODE;
ALTER TABLE chatwebhook.event ADD COLUMN source text;
} . function_of('retry') . function_of('cancel') . q{
REVOKE ALL ON FUNCTION chatwebhook.cancel(bigint, text) FROM PUBLIC;
/*
 * With another argument it is another function.  Roles that were granted the
 * former are granted it; those grants are the administrator's, and pg_dump must
 * go on to see them so.
 */
DO $$
DECLARE
    former regprocedure := 'chatwebhook.cancel(bigint)';
    fresh regprocedure := 'chatwebhook.cancel(bigint, text)';
    ours aclitem[] := (SELECT proacl FROM pg_catalog.pg_proc WHERE oid = fresh);
    role record;
BEGIN
    FOR role IN SELECT a.grantee, a.is_grantable
                  FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
                 WHERE p.oid = former AND a.grantee <> p.proowner AND a.privilege_type = 'EXECUTE' LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO %s %s', fresh,
            CASE WHEN role.grantee = 0 THEN 'PUBLIC' ELSE role.grantee::regrole::text END,
            CASE WHEN role.is_grantable THEN 'WITH GRANT OPTION' END);
    END LOOP;
    UPDATE pg_catalog.pg_init_privs SET initprivs = ours
     WHERE classoid = 'pg_catalog.pg_proc'::regclass AND objoid = fresh;
END
$$;
DROP FUNCTION chatwebhook.cancel(bigint);
} . $comment . $new . q{
-- samples that were taken before
DELETE FROM pg_catalog.pg_statistic s
 USING pg_catalog.pg_attribute a, pg_catalog.pg_class c
 WHERE a.attrelid = s.starelid AND a.attnum = s.staattnum AND a.attstattarget = 0
   AND c.oid = s.starelid AND c.relnamespace = 'chatwebhook'::pg_catalog.regnamespace;
};
my %script = (
	"chatwebhook--0.9.sql" => $today,
	"chatwebhook--0.9--$version.sql" => $update,
	"chatwebhook--$version.sql" => $next);
foreach my $name (keys %script)
{
	# which may be a link to the one that was installed
	unlink "$scripts/$name";
	append_to_file("$scripts/$name", $script{$name});
}

#
# The catalog: 0.9 and its update against CREATE EXTENSION
#
new_database('fresh', $version);
new_database('updated', '0.9');
my @former_lines = catalog('updated');
sql_in('updated', 'ALTER EXTENSION chatwebhook UPDATE');
my @fresh = catalog('fresh');
my @updated = catalog('updated');
same_lines(\@updated, \@fresh, 'an update gives what CREATE EXTENSION does');
cmp_ok(scalar(missing(\@fresh, \@former_lines)), '>', 10, 'which is not what there was before');

# The comparison sees every kind of difference.
my @mutations = (
	'COMMENT ON TABLE chatwebhook.webhook IS NULL',
	'COMMENT ON COLUMN chatwebhook.webhook.url IS NULL',
	'COMMENT ON FUNCTION chatwebhook.retry(bigint) IS NULL',
	'COMMENT ON VIEW chatwebhook.delivery IS NULL',
	'COMMENT ON TRIGGER follow ON chatwebhook.webhook IS $$new$$',
	'ALTER TABLE chatwebhook.webhook ALTER timeout DROP DEFAULT',
	'ALTER TABLE chatwebhook.webhook ALTER name DROP NOT NULL',
	'ALTER TABLE chatwebhook.vault ALTER name TYPE varchar',
	'ALTER TABLE chatwebhook.queue ADD one_more integer',
	'ALTER TABLE chatwebhook.vault DROP created_at;
	 ALTER TABLE chatwebhook.vault ADD created_at timestamptz NOT NULL DEFAULT pg_catalog.now()',
	'ALTER TABLE chatwebhook.attempt DROP CONSTRAINT attempt_pkey',
	'ALTER TABLE chatwebhook.attempt ADD CHECK (attempt > 0) NOT VALID',
	'DROP INDEX chatwebhook.dead_event_idx',
	'ALTER INDEX chatwebhook.queue_claim_idx SET (fillfactor = 50)',
	'ALTER TABLE chatwebhook.queue RESET (vacuum_truncate)',
	'ALTER TABLE chatwebhook.event ALTER data SET STORAGE external',
	'ALTER TABLE chatwebhook.event DISABLE ROW LEVEL SECURITY',
	'DROP POLICY monitor ON chatwebhook.dead',
	'ALTER POLICY monitor ON chatwebhook.dead USING (false)',
	'ALTER TABLE chatwebhook.vault DISABLE TRIGGER changed',
	'ALTER TABLE chatwebhook.vault ENABLE TRIGGER changed',
	'ALTER SEQUENCE chatwebhook.delivery_id_seq INCREMENT 2',
	'ALTER FUNCTION chatwebhook.retry(bigint) STABLE',
	'ALTER FUNCTION chatwebhook.retry(bigint) RESET ALL',
	'ALTER FUNCTION chatwebhook.retry(bigint) COST 7',
	'ALTER FUNCTION chatwebhook._do_secret(uuid) SECURITY INVOKER',
	'ALTER FUNCTION chatwebhook.cut(text, integer) PARALLEL UNSAFE',
	'GRANT EXECUTE ON FUNCTION chatwebhook.retry(bigint) TO pg_monitor',
	'REVOKE SELECT ON chatwebhook.webhook_health FROM pg_monitor',
	'GRANT SELECT (url) ON chatwebhook.webhook TO pg_monitor',
	'GRANT USAGE ON SCHEMA chatwebhook TO PUBLIC',
	'REVOKE USAGE ON TYPE chatwebhook.request FROM PUBLIC',
	q{UPDATE pg_proc SET prosrc = prosrc || ' '
	   WHERE oid = 'chatwebhook.retry(bigint)'::regprocedure},
	'ALTER VIEW chatwebhook.delivery RESET (security_invoker)',
	'CREATE OR REPLACE VIEW chatwebhook.activity_of_all AS SELECT 1 AS one',
	'ALTER EXTENSION chatwebhook DROP FUNCTION chatwebhook.retry(bigint)',
	q{UPDATE pg_extension SET extcondition[1] = 'WHERE true'
	   WHERE extname = 'chatwebhook'},
	q{UPDATE pg_extension SET extconfig = extconfig[2:], extcondition = extcondition[2:]
	   WHERE extname = 'chatwebhook'},
	q{DELETE FROM pg_init_privs WHERE objoid = 'chatwebhook.webhook_health'::regclass},
	q{UPDATE chatwebhook.event_type SET description = 'x', shipped = true
	   WHERE name = 'webhook.test'});
my $digest = qq{SELECT md5(string_agg(line, E'\\n' ORDER BY line COLLATE "C"))
	FROM ($catalog) AS s (line);};
my ($unchanged, @digests) = split /\n/, sql_in('fresh',
	'SET search_path = pg_catalog; SET client_min_messages = error;'
	  . "SET allow_system_table_mods = on; $digest"
	  . join('', map { "BEGIN; $_; $digest ROLLBACK;" } @mutations)
	  . $digest);
is(pop @digests, $unchanged, 'the comparison is stable');
is(scalar(@digests), scalar(@mutations), 'every change was made');
is_deeply([ map { $mutations[$_] }
		grep { $digests[$_] eq $unchanged } 0 .. $#digests ],
	[], 'and seen');

#
# A database at 0.9 under a library that is newer, with something of everything
#
new_database('used', '0.9');
sql_in('used', q{
	CREATE ROLE chat LOGIN;
	CREATE ROLE shop LOGIN;
	CREATE ROLE auditor LOGIN;
	CREATE TABLE message (n integer, bot text);
	GRANT INSERT ON message TO chat;
	CREATE TRIGGER emit AFTER INSERT ON message
		FOR EACH ROW EXECUTE FUNCTION
		chatwebhook.emit('order.placed', 'chatbotId=bot', 'n');
	INSERT INTO chatwebhook.event_type (name, required) VALUES ('order.placed', '{n}');
	UPDATE chatwebhook.event_type SET required = required || '{phone}'
	 WHERE name = 'lead.captured';
	CREATE FUNCTION note(event jsonb, webhook jsonb, replies jsonb)
		RETURNS chatwebhook.request LANGUAGE sql STABLE
		RETURN CASE WHEN replies = '[]' THEN
			('POST', webhook->>'url', '{}', event->'data', true)::chatwebhook.request END;
	INSERT INTO chatwebhook.connector (name, function)
		VALUES ('note', 'public.note(jsonb,jsonb,jsonb)');
	SELECT chatwebhook.grant_app('shop');
});
create_webhook($node, dbname => 'used', name => 'deleted');
sql_in('used', 'DELETE FROM chatwebhook.webhook');
my ($ok, $secret) = create_webhook($node, dbname => 'used', name => 'ok',
	events => ['order.*'],
	headers => { 'X-Team' => 'sales', 'X-Token' => '{{token}}' });
my ($flaky) = create_webhook($node, dbname => 'used', name => 'flaky',
	path => '/flaky/1', events => ['order.*'], chatbot_id => 'bot-1',
	backoff => '20 ms', ordered => 't');
my ($note) = create_webhook($node, dbname => 'used', name => 'note',
	connector => 'note', events => ['order.*'], filter => '$.data.n > 1');
my ($off) = create_webhook($node, dbname => 'used', name => 'off',
	events => ['order.*']);
sql_in('used', qq{
	SELECT chatwebhook.set_credential('$ok', 'token', 't0ken');
	INSERT INTO message VALUES (1, 'bot-1');
	UPDATE chatwebhook.webhook SET enabled = false WHERE id = '$off'});
my $rotated = sql_in('used', "SELECT chatwebhook.rotate_secret('$ok', '1 day')");
$receiver->set_secret('ok', [ $rotated, $secret ]);

# finished deliveries
sql_in('used', qq{
	SELECT chatwebhook.cancel(id) FROM chatwebhook.queue WHERE webhook_id = '$ok';
	INSERT INTO chatwebhook.history (id, webhook_id, event_id, created_at,
	       completed_at, last_attempt_at, attempts, latency_ms, last_status_code,
	       chatbot_id, webhook_name, status)
	SELECT 7, webhook_id, event_id, created_at, now(), now(), 2, 12, 200,
	       chatbot_id, 'flaky', 'delivered'
	  FROM chatwebhook.queue WHERE webhook_id = '$flaky';
	INSERT INTO chatwebhook.dead (id, webhook_id, event_id, created_at,
	       completed_at, last_attempt_at, attempts, latency_ms, last_status_code,
	       chatbot_id, webhook_name, status, last_error)
	SELECT 8, webhook_id, event_id, created_at, now(), now(), 6, 12, 503,
	       chatbot_id, 'flaky', 'dead', 'HTTP status 503'
	  FROM chatwebhook.queue WHERE webhook_id = '$flaky';
	INSERT INTO chatwebhook.attempt (delivery_id, attempt, webhook_id, chatbot_id,
	       started_at, latency_ms, status_code, error)
	VALUES (8, 6, '$flaky', 'bot-1', now(), 12, 503, 'HTTP status 503');
	INSERT INTO chatwebhook.memory (webhook_id, chatbot_id, conversation_id, remembered)
	VALUES ('$flaky', 'bot-1', 'c1', '{"thread": "17.1"}');
	INSERT INTO chatwebhook.activity (since, worker, succeeded)
	VALUES (date_trunc('minute', now()), 0, 1);
	INSERT INTO chatwebhook.alert (id, webhook_id, chatbot_id, webhook_name, kind, message, opened_at)
	VALUES (gen_random_uuid(), '$off', NULL, 'off', 'backlog', 'behind', now())});

# what the administrator granted and revoked
sql_in('used', q{
	GRANT SELECT ON chatwebhook.event, chatwebhook.delivery TO auditor;
	GRANT SELECT (name, enabled) ON chatwebhook.webhook TO auditor;
	GRANT USAGE ON SCHEMA chatwebhook TO auditor;
	GRANT EXECUTE ON FUNCTION chatwebhook.retry(bigint), chatwebhook.cancel(bigint) TO auditor;
	REVOKE EXECUTE ON FUNCTION chatwebhook.dashboard FROM pg_monitor;
	REVOKE EXECUTE ON FUNCTION chatwebhook.cut(text, integer) FROM PUBLIC});

# by rows and by a statement, by one who has no right on the queue
sql_in('used', q{
	SET ROLE chat;
	INSERT INTO message VALUES (2, 'bot-1');
	INSERT INTO message SELECT n, 'bot-1' FROM generate_series(3, 5) AS n});
is( sql_in('used', q{
		SELECT chatwebhook.emit('order.placed', 'bot-2', NULL, '{"n": 6}', key => 'six') IS NOT NULL}),
	't', 'emit() stores events at 0.9');
is( sql_in('used', q{
		SELECT string_agg(webhook_name || ' ' || n, ', ' ORDER BY webhook_name)
		  FROM (SELECT webhook_name, count(*) AS n FROM chatwebhook.delivery
		         WHERE status = 'pending' GROUP BY 1) AS s}),
	'flaky 5, note 5, off 1, ok 5',
	'and what is owed of them');

# what people read, at 0.9 under this library
foreach my $view (split /\n/, sql_in('used', q{
	SELECT oid::regclass FROM pg_class
	 WHERE relnamespace = 'chatwebhook'::regnamespace AND relkind = 'v' ORDER BY 1}))
{
	my ($status, $stdout, $stderr) = $node->psql('used', "SELECT * FROM $view");
	is($status, 0, "$view can be read") or diag($stderr);
}
like(sql_in('used', 'SELECT chatwebhook.metrics_text()'), qr/^# HELP/,
	'and metrics_text()');
like(sql_in('used', 'SELECT chatwebhook.dashboard()'), qr/<html/, 'and dashboard()');
is(sql_in('used', "SELECT chatwebhook.secret('$ok')"), $rotated, 'and a secret');

#
# The worker waits, and says so once
#
look_around('used');
look_around('used');
is(warnings_of('used'), 1, 'the log tells once that the version is another');
like(slurp_file($node->logfile),
	qr/extension in database "used" is of version 0\.9: nothing is sent\n.*HINT:  Use ALTER EXTENSION chatwebhook UPDATE/,
	'of which database, and what to do');
is($receiver->count, 0, 'nothing is sent');

#
# ALTER EXTENSION UPDATE leaves everything as it was
#
# The tables' rows, with the columns that they had.
my %columns = map { split /=/ } split /\n/, sql_in('used', q{
	SELECT r.oid::regclass || '=' || string_agg(quote_ident(attname), ',' ORDER BY attnum)
	  FROM pg_extension e, pg_class r JOIN pg_attribute a ON a.attrelid = r.oid
	 WHERE e.extname = 'chatwebhook' AND r.oid = ANY (e.extconfig)
	   AND attnum > 0 AND NOT attisdropped
	 GROUP BY r.oid});

sub contents
{
	my %contents;

	$contents{$_} = sql_in('used', qq{
		SELECT to_jsonb(t) FROM (SELECT $columns{$_} FROM $_) AS t
		 ORDER BY to_jsonb(t)::text COLLATE "C"}) foreach keys %columns;
	return \%contents;
}

sql('ALTER SYSTEM SET chatwebhook.enabled = off');
$node->reload;
becomes_true_in('used', 'SELECT NOT current_setting($$chatwebhook.enabled$$)::boolean',
	'sending is off');
my $before = contents();
is(join(' ', grep { $before->{$_} eq '' } sort keys %$before), '',
	'there is something in every table');
my $newest = sql_in('used', 'SELECT max(id) FROM chatwebhook.queue');
my $sampled = q{
	SELECT count(*) > 0 FROM pg_statistic s JOIN pg_attribute a
	    ON a.attrelid = s.starelid AND a.attnum = s.staattnum
	 WHERE s.starelid = 'chatwebhook.event'::regclass AND a.attname = };
sql_in('used', 'ANALYZE');
is(sql_in('used', $sampled . q{'chatbot_id'}), 't', 'the planner has samples of a column');

# while it waits for a vacuum, which can take hours, others emit
my $vacuum = $node->background_psql('used');
$vacuum->query_safe('BEGIN');
$vacuum->query_safe('LOCK TABLE chatwebhook.history IN SHARE UPDATE EXCLUSIVE MODE');
my $output = '';
my $waiting = IPC::Run::start(
	[ 'psql', '-XAtq', '-d', $node->connstr('used'), '-c', 'ALTER EXTENSION chatwebhook UPDATE' ],
	'>&', \$output);
becomes_true_in('used', q{
	SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'chatwebhook.history'::regclass)},
	'an update waits for a vacuum');
is(sql_in('used', q{
		SET lock_timeout = '10s';
		BEGIN;
		SELECT chatwebhook.emit('order.placed', 'bot-1', NULL, '{"n": 7}') IS NOT NULL;
		ROLLBACK}), 't', 'and nobody who emits for it');
$vacuum->query_safe('COMMIT');
$vacuum->quit;
ok($waiting->finish, 'it goes on then') or diag($output);
is(sql_in('used', q{SELECT extversion FROM pg_extension WHERE extname = 'chatwebhook'}),
	$version, 'it is updated');
has_workers('used', 1, 'a worker comes by itself');
my $after = contents();
is($after->{$_}, $before->{$_}, "$_ is as it was") foreach sort keys %$before;
is(sql_in('used', $sampled . q{'chatbot_id'}), 'f', 'but the samples are gone');
is(sql_in('used', $sampled . q{'type'}), 't', 'and no others');

# others' rights too, also where pg_dump takes them for others'
my @used = catalog('used');
my @more = missing(\@used, \@fresh);
my @less = missing(\@fresh, \@used);
is(join("\n", grep { !/^policy app_\d+ of .* to \{shop\}, |: (shop|auditor), / } @more), '',
	'nothing has come but others\' rights');
is( join("\n", grep { !/^row of event_type: .*"lead\.captured"/ } @less),
	join("\n",
		'privilege chatwebhook.cut(text,integer): public, EXECUTE by postgres',
		'privilege chatwebhook.dashboard(integer): pg_monitor, EXECUTE by postgres'),
	'and nothing has gone but what was revoked');
is(scalar(grep { /: auditor, / } @more), 7, 'the rights that were granted are there');
is(scalar(grep { /initial/ } @more), 0,
	'and pg_dump will know that they are not the extension\'s');

#
# And delivers
#
sql_in('used', "INSERT INTO message VALUES (7, 'bot-1')");
is( sql_in('used', "SELECT count(*) FROM chatwebhook.queue WHERE id > $newest"),
	3, 'ids go on rising');
sql('ALTER SYSTEM RESET chatwebhook.enabled');
$node->reload;
ok(wait_idle($node, dbname => 'used'), 'idle');

# The numbers that a label's requests have carried as data.
sub numbers
{
	my ($label) = @_;
	return join ' ', sort { $a <=> $b }
	  map { my $body = $json->decode($_->{body}); ($body->{data} // $body)->{n} }
	  $receiver->log($label);
}
is(numbers('ok'), '2 3 4 5 6 7', 'what was pending has arrived, and what was not is not sent');
is(numbers('flaky'), '1 1 2 2 3 3 4 4 5 5 7 7', 'also where it took a retry');
is(numbers('note'), '2 3 4 5 6 7', 'and by a connector of one\'s own');
is(scalar(grep { !$_->{verified}{standard} || $_->{headers}{'x-token'} ne 't0ken' }
		$receiver->log('ok')),
	0, 'with the secret and the credential of before');
is(sql_in('used', 'SELECT chatwebhook.retry(8)'), 't', 'a dead letter can be retried');
ok(wait_idle($node, dbname => 'used'), 'idle');
is( sql_in('used', 'SELECT status FROM chatwebhook.delivery WHERE id = 8'),
	'delivered', 'and is delivered');
is( sql_in('used', q{SET ROLE shop; SET chatwebhook.chatbot = 'bot-1';
		SELECT string_agg(name, ' ') FROM chatwebhook.webhook}),
	'flaky', 'an app sees the webhooks of its chatbot');

#
# SQL that is newer than the library
#
# The version of the extension, and a change that its workers hear of.
sub set_version
{
	my ($dbname, $new) = @_;
	sql_in($dbname, qq{
		BEGIN;
		UPDATE pg_extension SET extversion = '$new' WHERE extname = 'chatwebhook';
		ALTER EXTENSION chatwebhook DROP FUNCTION chatwebhook.retry(bigint);
		ALTER EXTENSION chatwebhook ADD FUNCTION chatwebhook.retry(bigint);
		COMMIT});
}
set_version('used', '99.0');
has_workers('used', 0,
	'the worker of a database whose version becomes another leaves');
sql_in('used', q{
	ALTER TABLE chatwebhook.event ADD later integer DEFAULT 1;
	ALTER TABLE chatwebhook.queue ADD later text, ADD latest boolean;
	SET ROLE chat;
	INSERT INTO message VALUES (8, 'bot-1')});
is( sql_in('used', q{SELECT count(*) FROM chatwebhook.queue q
		JOIN chatwebhook.event e ON e.id = q.event_id WHERE e.data->>'n' = '8'}),
	3, 'events are stored in tables that have more columns');
look_around('used');
is(warnings_of('used'), 2, 'the log tells that once, too');
is($receiver->count('ok'), 6, 'nothing is sent');
# which a worker that starts serves
set_version('used', $version =~ s/\d+$/99/r);
ok($receiver->wait_for(7, 'ok'), 'until the SQL is that of a patch release');
set_version('used', $version);
ok(wait_idle($node, dbname => 'used'), 'idle');

# tables that are not ours at all
my ($status, $stdout, $stderr) = $node->psql('used', q{
	BEGIN;
	ALTER TABLE chatwebhook.queue RENAME TO former;
	CREATE TABLE chatwebhook.queue (id bigint);
	INSERT INTO message VALUES (9, 'bot-1')});
like($stderr,
	qr/ERROR:  table "chatwebhook\.queue" is of another version than the library\nHINT:  Use ALTER EXTENSION chatwebhook UPDATE\./,
	'a table with fewer columns than the library knows is an error that says so');

my @errors = grep { /^\S+ \S+ \S+ \[\d+\] (ERROR|FATAL|PANIC):/ }
  split /\n/, slurp_file($node->logfile);
is("@errors", '', 'no worker has met an error');

done_testing();
