--- The receiver of webhooks: nginx, which answers 204 to whatever has a fencing token. The one of the system, else
-- Debian's package unpacked into build/bench/nginx: installing it would leave a web server running.
-- @module bench.receiver

local socket = require("socket")

local M = {}

local CONFIG = [[
daemon off;
master_process off;
pid DIR/pid;
error_log DIR/log;
events { worker_connections 512; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path DIR/body;
  proxy_temp_path DIR/proxy;
  fastcgi_temp_path DIR/fastcgi;
  uwsgi_temp_path DIR/uwsgi;
  scgi_temp_path DIR/scgi;
  server {
    listen 127.0.0.1:PORT;
    location = /count { stub_status; }
    location / {
      if ($http_webhook_fencing_token = "") { return 400; }
      return 204;
    }
  }
}
]]

local FIND = [[
for path in $(command -v nginx) /usr/sbin/nginx build/bench/nginx/usr/sbin/nginx; do
  [ ! -x "$path" ] || { echo "$path"; exit; }
done
mkdir -p build/bench && cd build/bench && apt-get download nginx >nginx.log 2>&1 && dpkg -x nginx_*.deb nginx &&
  nginx/usr/sbin/nginx -v 2>>nginx.log && echo build/bench/nginx/usr/sbin/nginx
]]

local function free_port()
  local server = assert(socket.bind("127.0.0.1", 0))
  local _, port = server:getsockname()
  server:close()
  return port
end

--- Starts it. Answers it, or nil and why there is none.
function M.start(directory)
  local find = assert(io.popen(FIND))
  local nginx = find:read("l")
  find:close()
  if not nginx then return nil, "there is no nginx (Debian's package of this name)" end
  local port = free_port()
  local file = assert(io.open(directory .. "/nginx.conf", "w"))
  file:write((CONFIG:gsub("DIR", directory):gsub("PORT", port)))
  file:close()
  local pipe = assert(io.popen(("exec spec/support/spawn %s -p %s -c %s/nginx.conf 2>&1"):format(
    nginx, directory, directory), "w"))
  local limit = socket.gettime() + 10
  repeat
    local try = socket.connect("127.0.0.1", port)
    if try then try:close() end
    if socket.gettime() > limit then return nil, nginx .. " does not answer" end
  until try
  return { pipe_ = pipe, pid_file_ = directory .. "/pid", url = ("http://127.0.0.1:%d/"):format(port) }
end

--- Ends it.
function M.stop(receiver)
  local pid = assert(io.open(receiver.pid_file_)):read("n")
  os.execute(("kill %d"):format(pid))
  receiver.pipe_:close()
end

return M
