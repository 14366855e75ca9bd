# Requests of different customers never share a connection over HTTP/1.1.
#
# There, a reply belongs to a request only because it comes next. Only a receiver
# that sees which requests come on which connection can show that nothing which one
# customer's request leaves on a connection meets another's; and only one that
# sends a reply nobody has asked for, that it is not taken for an answer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Chatwebhook;
use IO::Select;
use IO::Socket::INET;
use Test::More;

my $receiver = start_receiver();
my $node = new_node('main');

# Emit events for some chatbots in turn, each after the one before is delivered.
sub in_turn
{
	my ($n, @chatbots) = @_;

	foreach my $i (1 .. $n)
	{
		foreach my $chatbot (@chatbots)
		{
			sql("SELECT chatwebhook.emit('webhook.test', '$chatbot', NULL, '{}')");
			wait_idle($node) or die "not idle\n";
		}
	}
}

# The labels that each connection has carried requests of.
sub connections
{
	my %labels;

	$labels{ $_->{connection} }{ $_->{label} } = 1 foreach $receiver->log;
	return map { join '+', sort keys %$_ } values %labels;
}

create_webhook($node, name => 'alone', chatbot_id => 'alone');
in_turn(5, 'alone');
is(scalar(connections()), 1, 'a customer\'s requests share a connection');

create_webhook($node, name => $_, chatbot_id => $_) foreach 'a', 'b', 'c';
in_turn(5, 'a', 'b', 'c', 'alone');
is(join(' ', grep { /\+/ } connections()), '', 'no connection has carried requests of two');
is($receiver->count($_), 5, "all of $_ has arrived") foreach 'a', 'b', 'c';

# at the same time as well
sql("SELECT count(chatwebhook.emit('webhook.test', c, NULL, '{}')) FROM generate_series(1, 100), unnest('{a,b,c,alone}'::text[]) AS c");
ok(wait_idle($node), 'many at once are delivered');
is(join(' ', grep { /\+/ } connections()), '', 'still apart');

#
# A server that sends a second reply to each request, after a while or at once.
#
my $server = IO::Socket::INET->new(Listen => 50, LocalAddr => '127.0.0.1') or die "$!";
my $pid = fork // die "$!";
if ($pid == 0)
{
	my $select = IO::Select->new($server);

	while (1)
	{
		foreach my $socket ($select->can_read)
		{
			if ($socket == $server)
			{
				$select->add($server->accept);
				next;
			}
			my $request = '';
			if (!sysread $socket, $request, 100_000)
			{
				$select->remove($socket);
				close $socket;
				next;
			}
			next if $request !~ /^POST/;
			syswrite $socket, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n";
		}
	}
}
my $port = $server->sockport;
sql('DELETE FROM chatwebhook.webhook');
create_webhook($node, name => $_, chatbot_id => $_, url => "http://127.0.0.1:$port/") foreach 'one', 'two';
in_turn(5, 'one', 'two', 'one', 'one');
is(sql("SELECT count(*) FROM chatwebhook.webhook WHERE enabled"), 2, 'a reply that nobody has asked for disables no webhook');
is(sql("SELECT count(*) FROM chatwebhook.dead"), 0, 'nor does it end a delivery');
kill 'KILL', $pid;
waitpid $pid, 0;

$node->stop;
done_testing();
