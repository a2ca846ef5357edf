-- What Envoy's transcoder leaves undone: it drops unknown JSON fields without a word, and shows a failed call as a bare
-- google.rpc.Status. Here the first are refused and the second becomes a problem document (RFC 9457).
-- Values are cut out of the JSON as they stand, escapes included, so nothing is decoded and encoded again.
-- Before this text stand MESSAGES (message to field to the field's message, or true) and BODIES (verb, path pattern,
-- message), compiled from the contract.

-- google.rpc.Code to HTTP status, as mesh/problem.py has it.
local HTTP = {
  [1] = 499, [3] = 400, [4] = 504, [5] = 404, [6] = 409, [7] = 403, [8] = 429, [9] = 409, [10] = 409, [11] = 400,
  [12] = 501, [14] = 503, [16] = 401,
}
local BODY_BYTES_MAX = 65536
local DEPTH_MAX = 16

-- Index of the last character of the JSON value that begins at i.
local function value_end(s, i, depth)
  assert(depth <= DEPTH_MAX and i <= #s)
  local first = s:sub(i, i)
  if first == '"' then
    local j = i + 1
    while true do
      local c = assert(s:byte(j))
      if c == 34 then return j end
      j = j + (c == 92 and 2 or 1)
    end
  elseif first == '{' or first == '[' then
    local j = i + 1
    while true do
      local c = s:sub(j, j)
      if c == '}' or c == ']' then return j end
      if c == '"' or c == '{' or c == '[' then j = value_end(s, j, depth + 1) end
      j = j + 1
      assert(j <= #s)
    end
  end
  return assert(s:find('[,}%]%s]', i)) - 1
end

-- Calls `each` with every name and the text of its value, in an object.
local function walk(s, each)
  local i = 2
  while true do
    local name = s:find('"', i, true)
    if not name then return end
    local name_end = value_end(s, name, 0)
    local value = assert(s:find('[^%s:]', name_end + 1))
    local last = value_end(s, value, 0)
    each(s:sub(name + 1, name_end - 1), s:sub(value, last))
    i = last + 1
  end
end

-- The members of an object: name to the text of the value.
local function members(s)
  local found = {}
  walk(s, function(name, value) found[name] = value end)
  return found
end

-- The texts of an array's objects.
local function objects(s)
  local found, i = {}, 2
  while true do
    local start = s:find('{', i, true)
    if not start then return found end
    local last = value_end(s, start, 0)
    found[#found + 1] = s:sub(start, last)
    i = last + 1
  end
end

-- The first member of an object that its message does not know, or that comes twice; nil when there is none.
local function stranger(s, message, depth)
  assert(depth <= DEPTH_MAX)
  local fields, seen, found = MESSAGES[message], {}, nil
  walk(s, function(name, value)
    if found then return end
    local field = fields[name]
    if not field then found = {name, 'is not known here'} return end
    if seen[field.name] then found = {name, 'comes twice'} return end
    seen[field.name] = true
    if not field.message then return end
    local inner = value:sub(1, 1) == '{' and {value} or value:sub(1, 1) == '[' and objects(value) or {}
    for _, text in ipairs(inner) do
      found = found or stranger(text, field.message, depth + 1)
    end
  end)
  return found
end

local REFUSED = '{"type":"urn:isthmus:problem:field-unknown","title":"Field unknown","status":400,'
  .. '"detail":"The body holds a field that cannot be taken.","reason":"FIELD_UNKNOWN"'

local JSON_UTF8 = '^application/json%s*;%s*charset%s*=%s*"?utf%-8"?%s*$'
local NOT_JSON = '{"type":"urn:isthmus:problem:unsupported-media-type","title":"Unsupported media type","status":415,'
  .. '"detail":"The body must be application/json, in UTF-8.","reason":"UNSUPPORTED_MEDIA_TYPE"}'

function envoy_on_request(handle)
  local verb, path = handle:headers():get(':method'), handle:headers():get(':path'):match('^[^?]*')
  for _, each in ipairs(BODIES) do
    if each.verb == verb and path:match(each.pattern) then
      local body = handle:body()
      if not body or body:length() > BODY_BYTES_MAX then return end
      local kind = (handle:headers():get('content-type') or ''):lower()
      if body:length() > 0 and not (kind:match('^application/json%s*$') or kind:match(JSON_UTF8)) then
        handle:streamInfo():dynamicMetadata():set('isthmus', 'answered', true)
        handle:respond({[':status'] = '415', ['content-type'] = 'application/problem+json'}, NOT_JSON)
        return
      end
      local json = body:getBytes(0, body:length()):match('^%s*({.*)$')
      -- What is no object at all, or breaks off, the transcoder refuses.
      local ok, found = pcall(stranger, json or '', each.message, 0)
      if json and ok and found then
        local name = found[1]:match('^[%w_.-]+$') and found[1]:sub(1, 64) or ''
        local errors = ',"errors":[{"field":"' .. name .. '","rule":"' .. found[2] .. '"}]}'
        handle:streamInfo():dynamicMetadata():set('isthmus', 'answered', true)
        handle:respond({[':status'] = '400', ['content-type'] = 'application/problem+json'}, REFUSED .. errors)
      end
      return
    end
  end
end

local function document(json)
  local status = members(json)
  local code = tonumber(status.code)
  local http = HTTP[code] or 500
  local reason, remedy, errors = 'RPC_FAILED', nil, {}
  for _, text in ipairs(objects(status.details or '[]')) do
    local detail = members(text)
    if detail.reason then
      reason = detail.reason:sub(2, -2):match('^[A-Z0-9_]+$') or reason
      remedy = members(detail.metadata or '{}').remedy
    end
    for _, violation in ipairs(objects(detail.fieldViolations or detail.field_violations or '[]')) do
      local parts = members(violation)
      errors[#errors + 1] = '{"field":' .. (parts.field or '""') .. ',"rule":' .. (parts.description or '""') .. '}'
    end
  end
  local words = reason:gsub('_', ' '):lower()
  local message = status.message or '""'
  if reason == 'RPC_FAILED' then
    -- Not one of our own errors: its text may name what is inside.
    message = '"The request could not be answered."'
  end
  local parts = {
    '{"type":"urn:isthmus:problem:' .. reason:gsub('_', '-'):lower() .. '"',
    '"title":"' .. words:sub(1, 1):upper() .. words:sub(2) .. '"',
    '"status":' .. http,
    '"detail":' .. message,
    '"reason":"' .. reason .. '"',
  }
  if remedy then parts[#parts + 1] = '"remedy":' .. remedy end
  if #errors > 0 then parts[#parts + 1] = '"errors":[' .. table.concat(errors, ',') .. ']' end
  return http, table.concat(parts, ',') .. '}'
end

local UNREADABLE = '{"type":"urn:isthmus:problem:internal","title":"Internal","status":500,'
  .. '"detail":"The server failed on this request.","reason":"INTERNAL"}'

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = tonumber(headers:get(':status'))
  if not status or status < 400 then return end
  if headers:get('content-type') ~= 'application/json' then return end
  local body = handle:body(true)
  local json = body:length() <= BODY_BYTES_MAX and body:getBytes(0, body:length()) or ''
  local ok, http, text = pcall(document, json)
  if not ok then http, text = 500, UNREADABLE end
  -- The body may have been waited for; what was held before the wait is no longer ours.
  headers = handle:headers()
  headers:replace(':status', tostring(http))
  headers:replace('content-type', 'application/problem+json')
  headers:replace('content-length', tostring(handle:body():setBytes(text)))
  if http == 401 then headers:replace('www-authenticate', 'Bearer error="invalid_token"') end
  if http == 429 or http == 503 then headers:replace('retry-after', '1') end
end
