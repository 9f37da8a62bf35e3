"""Programs that talk to each other over TCP, and what their containers say of it."""
import json
import socket

from conftest import wait_for

USR = ("-v", "/usr:/usr:ro")


def counters(caisson, name):
    """Of all its processes together."""
    total = {}
    for link in json.loads(caisson("element", "inspect", name, "--format", "json").out):
        for counter, value in link["counters"].items():
            total[counter] = total.get(counter, 0) + value
    return total


def answers(caisson, ip, port):
    return wait_for(lambda: socket.create_connection((ip, port), 1).close() is None, 30, f"port {port}")


NGINX = "user root; daemon off; pid /tmp/pid; error_log stderr; worker_processes 2; events {} http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; %s }"
SITE = "server { listen 80; location / { return 200 \"$remote_addr $server_port\\n\"; } }"
POSTGRES = "set -e; D=/tmp/data; B=$(echo /usr/lib/postgresql/*/bin); $B/initdb -D $D -A trust >/dev/null; echo 'host all all 0.0.0.0/0 trust' >> $D/pg_hba.conf; exec $B/postgres -D $D -c listen_addresses='*' -c unix_socket_directories=/tmp"
PYTHON = """
import asyncio
async def serve(reader, writer):
    data = await reader.read(100000)
    writer.write(("%s %d " % writer.get_extra_info("peername")).encode() + data); await writer.drain(); writer.close()
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", 7000)
    async with server: await server.serve_forever()
asyncio.run(main())
"""
NODE = "require('net').createServer(s => s.once('data', d => s.end(s.remoteAddress.replace('::ffff:', '') + ' ' + s.remotePort + ' ' + d))).listen(7000)"
JAVA = """
import java.net.*; import java.nio.*; import java.nio.channels.*;
public class Main {
  public static void main(String[] a) throws Exception {
    if (a.length > 0) {
      SocketChannel c = SocketChannel.open(); c.configureBlocking(false); Selector s = Selector.open();
      c.connect(new InetSocketAddress(a[0], 7000)); c.register(s, SelectionKey.OP_CONNECT); s.select(); c.finishConnect();
      c.write(ByteBuffer.wrap("java".getBytes())); c.keyFor(s).interestOps(SelectionKey.OP_READ);
      ByteBuffer b = ByteBuffer.allocate(1000); while (true) { s.select(); s.selectedKeys().clear(); if (c.read(b) < 0) break; }
      System.out.print(((InetSocketAddress) c.getLocalAddress()).getPort() + "|" + new String(b.array(), 0, b.position())); return;
    }
    ServerSocket l = new ServerSocket(7000);
    while (true) { Socket s = l.accept(); byte[] b = new byte[1000]; int n = s.getInputStream().read(b); if (n < 0) n = 0;
      s.getOutputStream().write((s.getInetAddress().getHostAddress() + " " + s.getPort() + " " + new String(b, 0, n)).getBytes()); s.close(); }
  }
}
"""
CLIENTS = {"python": ["python3", "-c", "import socket,sys\ns=socket.create_connection((sys.argv[1],7000)); p=s.getsockname()[1]; s.sendall(b'python'); d=b''\nwhile True:\n x=s.recv(100)\n if not x: break\n d+=x\nprint(p,d.decode(),sep='|',end='')"],
           "node": ["node", "-e", "const s=require('net').connect(7000,process.argv[1],()=>{s.write('node')}); let p,d=''; s.on('connect',()=>p=s.localPort); s.on('data',x=>d+=x); s.on('close',()=>process.stdout.write(p+'|'+d))"],
           "perl": ["perl", "-MIO::Socket::INET", "-e", "my $s=IO::Socket::INET->new(PeerAddr=>$ARGV[0],PeerPort=>7000) or die; print $s 'perl'; $s->flush; my $d=join '',<$s>; print $s->sockport,'|',$d"],
           "java": ["java", "-Xint", "/src/Main.java"]}
