//! Runs scripts in Lua 5.1, as Redis does.

use std::{cell::RefCell, rc::Rc};

use bytes::Bytes;
use mlua::{Lua, MultiValue, Table, Value, Variadic};

use super::{Reply, store::Store};

/// A Lua that lives as long as the server.
#[derive(Debug)]
pub(super) struct Interpreter {
    lua: Lua,
}

impl Interpreter {
    /// `redis.call` and `redis.pcall` reach `store`.
    pub(super) fn new(store: &Rc<RefCell<Store>>) -> mlua::Result<Self> {
        let lua = Lua::new();
        let redis = lua.create_table()?;
        for (name, protected) in [("call", false), ("pcall", true)] {
            let store = store.clone();
            let call = lua.create_function(move |lua, arguments: Variadic<Value>| {
                let request = arguments.iter().map(argument).collect::<mlua::Result<Vec<_>>>()?;
                let reply = store.borrow_mut().call(&request);
                if let (Reply::Error(text), false) = (&reply, protected) {
                    return Err(mlua::Error::runtime(text));
                }
                to_lua(lua, &reply)
            })?;
            redis.set(name, call)?;
        }
        redis.set(
            "error_reply",
            lua.create_function(|lua, text: String| error_table(lua, &text))?,
        )?;
        lua.globals().set("redis", redis)?;
        Ok(Self { lua })
    }

    /// Runs `script`, whose first line may be `#!lua`.
    pub(super) fn run(&self, script: &[u8], keys: &[Bytes], arguments: &[Bytes]) -> Reply {
        self.evaluate(script, keys, arguments).unwrap_or_else(|error| {
            let text = error.to_string();
            // The text of an error of `redis.call` comes wrapped in the place where it happened.
            let text = text.strip_prefix("runtime error: ").unwrap_or(&text);
            let first = text.lines().next().unwrap_or_default();
            let known = first.split(' ').next().is_some_and(|kind| {
                kind.len() > 2 && kind.bytes().all(|byte| byte.is_ascii_uppercase())
            });
            Reply::Error(if known { first.to_owned() } else { format!("ERR {first}") })
        })
    }

    fn evaluate(&self, script: &[u8], keys: &[Bytes], arguments: &[Bytes]) -> mlua::Result<Reply> {
        let text = match script.strip_prefix(b"#!lua") {
            Some(rest) => rest.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default(),
            None => script,
        };
        for (name, values) in [("KEYS", keys), ("ARGV", arguments)] {
            let table = self.lua.create_table()?;
            for value in values {
                table.push(self.lua.create_string(value)?)?;
            }
            self.lua.globals().set(name, table)?;
        }
        let result: MultiValue = self.lua.load(text).set_name("script").eval()?;
        from_lua(result.into_iter().next().unwrap_or(Value::Nil))
    }
}

fn argument(value: &Value) -> mlua::Result<Bytes> {
    if let Value::String(text) = value {
        return Ok(Bytes::copy_from_slice(&text.as_bytes()));
    }
    // As Lua 5.1 prints numbers for Redis.
    number(value)
        .map(|number| number.to_string().into())
        .ok_or_else(|| mlua::Error::runtime(format!("no argument: {}", value.type_name())))
}

fn error_table(lua: &Lua, text: &str) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("err", text)?;
    Ok(table)
}

fn to_lua(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    Ok(match reply {
        Reply::Status(text) => {
            let table = lua.create_table()?;
            table.set("ok", text.as_str())?;
            Value::Table(table)
        }
        Reply::Error(text) => Value::Table(error_table(lua, text)?),
        #[expect(clippy::cast_precision_loss, reason = "Lua 5.1 has no other numbers")]
        Reply::Integer(number) => Value::Number(*number as f64),
        Reply::Bulk(None) => Value::Boolean(false),
        Reply::Bulk(Some(value)) => Value::String(lua.create_string(value)?),
        Reply::Array(replies) => {
            let table = lua.create_table()?;
            for reply in replies {
                table.push(to_lua(lua, reply)?)?;
            }
            Value::Table(table)
        }
    })
}

/// Lua 5.1 has one kind of number; the binding shows whole ones as another.
fn number(value: &Value) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "it was a float before")]
    value.as_number().or_else(|| value.as_integer().map(|number| number as f64))
}

fn from_lua(value: Value) -> mlua::Result<Reply> {
    if let Value::String(text) = &value {
        return Ok(Reply::bulk(Bytes::copy_from_slice(&text.as_bytes())));
    }
    if let Some(number) = number(&value) {
        #[expect(clippy::cast_possible_truncation, reason = "Redis truncates as well")]
        return Ok(Reply::Integer(number as i64));
    }
    let Value::Table(table) = value else {
        let is_true = value.as_boolean() == Some(true);
        return Ok(if is_true { Reply::Integer(1) } else { Reply::Bulk(None) });
    };
    if let Some(text) = table.get::<Option<String>>("err")? {
        return Ok(Reply::Error(text));
    }
    if let Some(text) = table.get::<Option<String>>("ok")? {
        return Ok(Reply::Status(text));
    }
    let replies = table.sequence_values::<Value>().map(|value| from_lua(value?));
    Ok(Reply::Array(replies.collect::<mlua::Result<_>>()?))
}
