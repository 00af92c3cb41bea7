"""nginx: one process that answers at once and stores nothing. It shows what the load generator can send."""

from bench.peers.peer import Peer

PEER = Peer(
    name="nginx",
    command="nginx",
    transports=frozenset({"http"}),
    files={
        "nginx.conf": """
daemon off;
master_process off;
pid $directory/nginx.pid;
events {
  worker_connections 1024;
}
http {
  access_log off;
  client_body_temp_path $directory/body;
  proxy_temp_path $directory/proxy;
  fastcgi_temp_path $directory/fastcgi;
  uwsgi_temp_path $directory/uwsgi;
  scgi_temp_path $directory/scgi;
  keepalive_requests 1000000000;
  server {
    listen 127.0.0.1:$http_port;
    location / {
      return 202;
    }
  }
}
"""
    },
    run=("-e", "stderr", "-p", "$directory", "-c", "$directory/nginx.conf"),
    check=("-t", "-e", "stderr", "-p", "$directory", "-c", "$directory/nginx.conf"),
    version="-v",
    delivers=False,
)
