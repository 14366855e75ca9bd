# The files that README.md's section on Docker starts: compose.yaml and what it mounts,
# examples/compose/init.sql and receiver.js.
#
# Only running both together can show that they agree on the secret and the signature, and
# that the database's settings in compose.yaml let it send to the receiver there.  "make
# test-image" also builds the image and runs the services as containers.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::Bin/../..";
my $compose = slurp_file("$root/compose.yaml");
my $readme = slurp_file("$root/README.md");
my $node_js = $ENV{NODE} // 'node';

if (system("$node_js --version >/dev/null 2>&1") != 0)
{
	plan skip_all => 'Node.js is not there to run the receiver';
}

#
# What compose.yaml names
#
my @mounted = $compose =~ m{^ *- \./([^:\s]+):}mg;
cmp_ok(@mounted, '>=', 2, 'compose.yaml mounts files of ours');
ok(-e "$root/$_", "... $_ is there") foreach @mounted;
my ($section) = $readme =~ /^### With Docker\n(.*?)^#/ms;
foreach my $service ($section =~ /^ +docker compose (?:exec|logs) (\w+)/mg)
{
	like($compose, qr/^  \Q$service\E:$/m, "README.md's service $service is there");
}
foreach my $variable ($compose =~ /\$\{(\w+):\?/g)
{
	like($section, qr/\Q$variable\E=/, "README.md sets $variable");
}

my ($default) = slurp_file("$root/Dockerfile") =~ /^ARG BASE=(\S+)$/m;
like($compose, qr/\$\{BASE:-\Q$default\E\}/, "the base is the Dockerfile's by default");

#
# The database, with the settings that compose.yaml gives it
#
my %settings = $compose =~ /^ +- -c\n +- ([\w.]+)=(\S+)$/mg;
is_deeply(
	[ sort keys %settings ],
	[ 'chatwebhook.allow_http', 'chatwebhook.allowed_networks' ],
	'it loosens these settings only');
my $node = new_node('main', -extension => 0, %settings);
my $secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
{
	local $ENV{WEBHOOK_SECRET} = $secret;
	my ($status, undef, $errors) = $node->psql('postgres', slurp_file("$root/examples/compose/init.sql"));
	is("$status $errors", '0 ', 'init.sql runs');
}
is(sql("SELECT problem FROM chatwebhook.webhook_health WHERE name = 'receiver'"),
	'', 'its webhook has no problem');
is(sql('SELECT count(*) FROM chatwebhook.watched WHERE problem IS NULL'), 1, 'nor has its watch');

#
# The receiver, which is here at another address
#
my ($output, $errors) = ('', '');
my $receiver;
{
	local $ENV{PORT} = 0;
	local $ENV{WEBHOOK_SECRET} = $secret;
	$receiver = IPC::Run::start(
		[ $node_js, "$root/examples/compose/receiver.js" ],
		'<' => \undef, '>' => \$output, '2>' => \$errors,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default * 2));
}
$receiver->pump until $output =~ /listening on port (\d+)\n/;
my ($port) = $output =~ /listening on port (\d+)\n/;
sql("ALTER SYSTEM SET chatwebhook.allowed_networks = '127.0.0.1/32:$port'");
$node->reload;
becomes_true("SELECT current_setting('chatwebhook.allowed_networks') = '127.0.0.1/32:$port'",
	'the receiver may be sent to');
sql("UPDATE chatwebhook.webhook SET url = replace(url, 'receiver:8080', '127.0.0.1:$port')");

# README.md's INSERT and SELECT
my ($insert, $select) = map { s/\\\n\s*//gr } $section =~ /psql -U postgres -c \\\n +"(.*?)"$/msg;
script($insert);
ok(wait_idle($node), 'an event is sent');
is(script($select), 'lead.captured|receiver|delivered|1|204', 'and delivered');
$receiver->pump until $output =~ /^verified: .*\n/m;
like($output, qr/^verified: \{"id":.*"zoe\@example\.com".*\}$/m, 'the receiver shows what it has verified');

# Signed with another secret
sql('SELECT chatwebhook.rotate_secret(id, overlap => \'0\') FROM chatwebhook.webhook');
script($insert);
ok(wait_idle($node), 'another event is sent');
is(sql('SELECT last_status_code FROM chatwebhook.dead_letter'), 401, 'and refused');
$receiver->pump until $output =~ /^refused: .*\n/m;
is(scalar(() = $output =~ /^verified/mg), 1, 'it was not verified');

$receiver->signal('TERM');
eval { $receiver->finish };
is($errors, '', 'the receiver has no complaints');
$node->stop('fast');
done_testing();
