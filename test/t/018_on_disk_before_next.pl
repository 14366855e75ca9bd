# What a next request follows from is on disk before that is sent.
#
# A crash must not have a connector's request made again whose reply the next one
# came from, nor an earlier event of an ordered conversation sent behind a later
# one.  The launcher flushes what workers commit, and so does the WAL writer, so
# only a crash with both of them stopped can show that the worker waits for the
# disk itself.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'autovacuum' => 'off',
	'bgwriter_lru_maxpages' => 0,
	'checkpoint_timeout' => '1h',
	'restart_after_crash' => 'on');

# Sends where the event says, and a second request where it says that.
script(q{
	CREATE FUNCTION told(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
		LANGUAGE sql STABLE AS $$
		SELECT ROW('POST', (webhook->>'url') || (event #>> ARRAY['data', 'path', jsonb_array_length(replies)::text]), NULL, '{}',
			jsonb_array_length(replies) + 1 = jsonb_array_length(event #> '{data,path}'))::chatwebhook.request
	$$;
	INSERT INTO chatwebhook.connector (name, function) VALUES ('told', 'public.told(jsonb,jsonb,jsonb)');
	INSERT INTO chatwebhook.event_type (name) VALUES ('test.flush')
});
create_webhook($node, name => 'steps', chatbot_id => 'steps', url => $receiver->url(''), connector => 'told',
	timeout => '5 minutes');
create_webhook($node, name => 'ordered', chatbot_id => 'ordered', url => $receiver->url(''), connector => 'told',
	timeout => '5 minutes', ordered => 't');
create_webhook($node, name => 'swept', chatbot_id => 'swept', path => '/hang', timeout => '5 minutes');

sub emit_sql
{
	my ($chatbot, @paths) = @_;
	my $paths = join ', ', map { qq{"$_"} } @paths;
	return qq{SELECT chatwebhook.emit('test.flush', '$chatbot', 'c', '{"path": [$paths]}');};
}

# The processes that would flush what others have written.
sub pid_of
{
	my ($type) = @_;
	return sql("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'");
}

my @stopped;

sub stop_processes
{
	@stopped = map { pid_of($_) } @_;
	foreach my $pid (@stopped)
	{
		kill 'STOP', $pid or die "could not stop $pid: $!\n";
	}
	return;
}

# End the server as a crash of one of its processes does: what it has not
# written is lost.
sub crash
{
	my $offset = -s $node->logfile;
	kill 'KILL', @stopped;
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'the server has crashed, and a worker is there again');
	return;
}

subtest 'a connector\'s step' => sub {
	stop_processes('chatwebhook launcher', 'walwriter');
	sql(emit_sql('steps', '/ok/-/step one', '/hang-until-told/-/step two') =~ s/step /step%20/gr);
	ok($receiver->wait_for(1, 'step two'), 'the second request has been sent');
	crash();
	ok($receiver->wait_for(2, 'step two'), 'it is made again');
	is($receiver->count('step one'), 1, 'but not the first');
	$receiver->set(up => ['step two']);
	ok(wait_idle($node), 'it is answered');
	is($receiver->count('step one'), 1, 'the first was made once');
};

subtest 'an ordered delivery' => sub {
	stop_processes('chatwebhook launcher', 'walwriter');
	script('BEGIN; ' . emit_sql('ordered', '/ok/-/first') . emit_sql('ordered', '/hang-until-told/-/second') . ' COMMIT');
	ok($receiver->wait_for(1, 'second'), 'the second of the conversation has been sent');
	crash();
	ok($receiver->wait_for(2, 'second'), 'it is sent again');
	is($receiver->count('first'), 1, 'but not the first');
	$receiver->set(up => ['second']);
	ok(wait_idle($node), 'it is answered');
	is($receiver->count('first'), 1, 'the first was sent once');
};

# What a worker finds by looking at the queue it knows nothing of, and so not
# whether it is on disk.
subtest 'an event that a sweep has found' => sub {
	sql(q{ALTER SYSTEM SET chatwebhook.databases = 'none'});
	$node->reload;
	becomes_true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'chatwebhook worker'}, 'there is no worker');
	stop_processes('walwriter');
	my ($committed) = reverse split /\n/,
	  script('SET synchronous_commit = off; ' . emit_sql('swept') . ' SELECT pg_current_wal_insert_lsn()');
	is(sql("SELECT pg_current_wal_flush_lsn() < '$committed'"), 't', 'an event was committed, and is not on disk');
	sql(q{ALTER SYSTEM RESET chatwebhook.databases});
	$node->reload;
	ok($receiver->wait_for(1, 'swept'), 'a new worker sends it');
	is(sql("SELECT pg_current_wal_flush_lsn() >= '$committed'"), 't', 'and it is on disk');
	kill 'CONT', @stopped;
};

$node->stop;
done_testing();
