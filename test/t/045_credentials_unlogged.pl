# A credential that is set as docs/connectors.md says leaves no trace.
#
# Only a server that logs all that it can, and psql with the page's own lines, can
# show that the secret is neither in the log nor in the views of statements, and
# that it arrives at the receiver byte by byte.  The same secret in a literal shows
# that it would have been found.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;

my $page = slurp_file("$FindBin::Bin/../../docs/connectors.md");
my ($lines) = $page =~ /^```psql\n(BEGIN;.*?)^```/ms;
my $receiver = start_receiver();
my $node = new_node(
	'main',
	'shared_preload_libraries' => 'chatwebhook, pg_stat_statements',
	'log_statement' => 'all',
	'log_min_duration_statement' => 0,
	'log_min_error_statement' => 'debug5',
	'log_error_verbosity' => 'verbose',
	'pg_stat_statements.track' => 'all',
	'pg_stat_statements.track_utility' => 'on',
	'compute_query_id' => 'on');
my $pgss = eval { sql('CREATE EXTENSION pg_stat_statements'); 1 };

# All that the server has kept of statements: of a session that is still there, too.
sub traces
{
	my $seen = slurp_file($node->logfile);
	$seen .= sql('SELECT string_agg(query, E\'\n\') FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
	$seen .= sql('SELECT string_agg(query, E\'\n\') FROM pg_stat_statements') if $pgss;
	return $seen;
}

# psql with some lines in a directory that has the secret in a file.
sub psql
{
	my ($text, $secret) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir;
	append_to_file("$dir/token.txt", "$secret\n");
	my $script = $text =~ s/'token\.txt'/'$dir\/token.txt'/r;
	my ($result, $out, $err) = $node->psql('postgres', $script);
	is($result, 0, 'psql runs it') or diag($err);
	is($err, '', 'without a word');
	return;
}

my ($id) = create_webhook($node, name => 'crm', headers => { 'X-Token' => '{{token}}' });

# a byte that means something to each format of COPY, to SQL and to psql
my $secret = q{zorgle-"quoted",'it''s' \N\t\\ :id $1 %s {{x}}};
psql($lines, $secret);
unlike(traces(), qr/zorgle/, 'no statement and no log has the secret');
like(traces(), qr/set_credential/, 'which have what it was set with');
sql(q{SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{}')});
ok($receiver->wait_for(1, 'crm'), 'an event is sent');
is(($receiver->log('crm'))[0]{headers}{'x-token'}, $secret, 'with the secret as it is in the file');

psql($lines =~ s/FROM 'token\.txt'/FROM PROGRAM 'echo zorgle-program'/r, 'unused');
unlike(traces(), qr/zorgle/, 'one from a program is in no log');
sql(q{SELECT chatwebhook.emit('conversation.ended', NULL, NULL, '{}')});
ok($receiver->wait_for(2, 'crm'), 'an event is sent');
is(($receiver->log('crm'))[1]{headers}{'x-token'}, 'zorgle-program', 'with that');

# of many lines, such as a key
my $pem = `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 2>/dev/null`;
chomp $pem;
my ($line) = $pem =~ /\n(.*)\n/;
psql($lines =~ s/'token',/'client_key',/r, $pem);
my $traces = traces();
unlike($traces, qr/zorgle|\Q$line\E/, 'nor is a key');
is(sql("SELECT position(convert_to('$pem', 'UTF8') IN value) > 0 FROM chatwebhook.vault WHERE webhook_id = '$id' AND name = 'client_key'"), 't',
	'which is stored line by line');

# a value that is refused
my ($out, $err) = ($node->psql('postgres', $lines =~ s/FROM 'token\.txt'/FROM PROGRAM 'printf "zorgl\\303\\251 zorgle\\n"'/r))[1, 2];
like($err, qr/ERROR:  invalid value for credential "token"/, 'one that cannot be sent is refused');
unlike(traces(), qr/zorgl/, 'and not shown');

# and this finds it, where it is
sql("SELECT chatwebhook.set_credential('$id', 'token', 'zorgle-literal')");
like(slurp_file($node->logfile), qr/zorgle-literal/, 'a literal is in the log');

$node->stop;
done_testing();
