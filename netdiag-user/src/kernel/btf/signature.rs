//! Functions, tracepoints, enums: what is declared rather than laid out.

use super::{Btf, BtfError, Kind, MAX_DEPTH, Type, unanimous};

/// A parameter of a function or an argument of a tracepoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Param {
    /// Its name in the kernel's source; empty where BTF has none.
    pub name: String,
    /// Its type as C writes it: `struct sock *`, `const struct sk_buff *`, `enum skb_drop_reason`; `...` for
    /// variable arguments.
    pub type_name: String,
}

impl Btf {
    /// The enumerators of an enum (also of a typedef of one), in the order of the source.
    ///
    /// Values of an enum that BTF does not mark as signed are taken as unsigned. BTF made by pahole before
    /// 1.24 marks none, so there a negative value of a 32-bit enum appears as 2^32 minus its magnitude. A
    /// value above `i64::MAX` wraps.
    ///
    /// # Errors
    /// [`BtfError::NotFound`], [`BtfError::Ambiguous`] if several enums have the name and differ,
    /// [`BtfError::Malformed`].
    pub fn enum_values(&self, name: &str) -> Result<Vec<(String, i64)>, BtfError> {
        let wanted = |kind| matches!(kind, Kind::Enum | Kind::Enum64);
        // An enum without enumerators is a forward declaration.
        let tagged =
            self.named(name, wanted).map(|ty| self.enumerators(ty)).filter(|values| !values.is_empty());
        match unanimous(name, tagged.map(Ok)) {
            Err(BtfError::NotFound { .. }) => {
                let typedefs = self.named(name, |kind| kind == Kind::Typedef).map(|ty| self.resolve(ty));
                unanimous(
                    name,
                    typedefs.map(|ty| match ty? {
                        ty if wanted(ty.kind) => Ok(self.enumerators(ty)),
                        _ => Err(BtfError::not_found(format!("{name} (not an enum)"))),
                    }),
                )
            }
            answer => answer,
        }
    }

    /// The arguments of a tracepoint as a `tp_btf` or raw tracepoint program gets them (`ctx[0]` is the first),
    /// from the typedef `btf_trace_NAME` (include/trace/bpf_probe.h), without its leading `void *`.
    ///
    /// The typedef has no names; they are taken from `__traceiter_NAME` (from 5.10) where its types are the
    /// same.
    ///
    /// # Errors
    /// [`BtfError::NotFound`], [`BtfError::Ambiguous`], [`BtfError::Malformed`].
    pub fn tracepoint_params(&self, name: &str) -> Result<Vec<Param>, BtfError> {
        let typedef = format!("btf_trace_{name}");
        let protos = self.named(&typedef, |kind| kind == Kind::Typedef).map(|ty| {
            let pointer = self.resolve(ty)?;
            if pointer.kind != Kind::Ptr {
                return Err(ty.malformed("tracepoint typedef is not a pointer"));
            }
            self.without_first(self.resolve(self.type_by_id(pointer.size_or_type)?)?)
        });
        let mut params = unanimous(&typedef, protos)?;
        if params.iter().all(|param| param.name.is_empty())
            && let Ok(mut named) = self.func_params(&format!("__traceiter_{name}"))
            && named.len() == params.len() + 1
        {
            named.remove(0);
            if named.iter().zip(&params).all(|(with_name, param)| with_name.type_name == param.type_name) {
                params = named;
            }
        }
        Ok(params)
    }

    /// The id of the typedef `btf_trace_NAME`, by which a program is attached to a tracepoint. Of several the
    /// first, as libbpf takes it.
    pub fn tracepoint_id(&self, name: &str) -> Option<u32> {
        self.ids(&format!("btf_trace_{name}"), Kind::Typedef).into_iter().min()
    }

    /// The id of a function, by which a program is attached to it. Of several the first, if all take the same types: a
    /// system call has a weak twin in kernel/sys_ni.c that calls its argument otherwise. `None` if they differ.
    pub fn func_id(&self, name: &str) -> Option<u32> {
        let types = |id: &u32| -> Option<Vec<String>> {
            let proto = self.type_by_id(self.type_by_id(*id).ok()?.size_or_type).ok()?;
            Some(self.params(proto).ok()?.into_iter().map(|param| param.type_name).collect())
        };
        let ids = self.ids(name, Kind::Func);
        let first = types(ids.first()?)?;
        let alike = ids.iter().all(|id| types(id).as_ref() == Some(&first));
        if alike { ids.into_iter().min() } else { None }
    }

    fn ids(&self, name: &str, kind: Kind) -> Vec<u32> {
        let is_it = |id: &u32| {
            self.type_by_id(*id).is_ok_and(|ty| ty.kind == kind && self.string(ty.name) == name.as_bytes())
        };
        self.blobs().flat_map(|blob| blob.candidates(name)).filter(is_it).collect()
    }

    /// The parameters of a function.
    ///
    /// # Errors
    /// [`BtfError::NotFound`], [`BtfError::Ambiguous`] if several functions have the name and differ in their
    /// parameters, [`BtfError::Malformed`].
    pub fn func_params(&self, name: &str) -> Result<Vec<Param>, BtfError> {
        let functions = self.named(name, |kind| kind == Kind::Func);
        unanimous(name, functions.map(|ty| self.params(self.type_by_id(ty.size_or_type)?)))
    }

    fn without_first(&self, proto: Type<'_>) -> Result<Vec<Param>, BtfError> {
        let mut params = self.params(proto)?;
        if params.first().is_none_or(|first| first.type_name != "void *") {
            return Err(proto.malformed("tracepoint prototype does not start with void *"));
        }
        params.remove(0);
        Ok(params)
    }

    fn params(&self, proto: Type<'_>) -> Result<Vec<Param>, BtfError> {
        if proto.kind != Kind::FuncProto {
            return Err(proto.malformed("function without a prototype"));
        }
        let param = |[name, type_id]: [u32; 2]| {
            // A last parameter without name and type stands for variable arguments.
            let type_name =
                if (name, type_id) == (0, 0) { "...".to_owned() } else { self.type_name(type_id)? };
            Ok(Param { name: self.text(name), type_name })
        };
        proto.entries::<2>().map(param).collect()
    }

    fn enumerators(&self, ty: Type<'_>) -> Vec<(String, i64)> {
        if ty.kind == Kind::Enum64 {
            let value = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)).cast_signed();
            return ty.entries::<3>().map(|[name, low, high]| (self.text(name), value(low, high))).collect();
        }
        let value = |raw: u32| if ty.kind_flag { i64::from(raw as i32) } else { i64::from(raw) };
        ty.entries::<2>().map(|[name, raw]| (self.text(name), value(raw))).collect()
    }

    fn text(&self, offset: u32) -> String {
        String::from_utf8_lossy(self.string(offset)).into_owned()
    }

    /// A type as C writes it, without a declared name. The parameters of a function type are left out.
    fn type_name(&self, id: u32) -> Result<String, BtfError> {
        self.type_name_within(id, MAX_DEPTH)
    }

    fn type_name_within(&self, id: u32, depth: u32) -> Result<String, BtfError> {
        // From the outside in: qualifiers not yet placed, and what stands to the right of the innermost type.
        let mut qualifiers = String::new();
        let mut suffix = String::new();
        let mut ty = self.type_by_id(id)?;
        for depth in (0..depth).rev() {
            let inner = match ty.kind {
                Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag => {
                    qualifiers.push_str(match ty.kind {
                        Kind::Const => "const ",
                        Kind::Volatile => "volatile ",
                        Kind::Restrict => "restrict ",
                        _ => "",
                    });
                    ty.size_or_type
                }
                Kind::Ptr => {
                    // Qualifiers seen so far are those of this pointer.
                    let right = std::mem::take(&mut suffix);
                    suffix = format!("*{qualifiers}{right}");
                    qualifiers.clear();
                    ty.size_or_type
                }
                Kind::Array => {
                    let Some([element, _, count]) = ty.entries::<3>().next() else {
                        return Err(ty.malformed("array without element type"));
                    };
                    suffix = match suffix.trim_end() {
                        pointer if pointer.starts_with('*') => format!("({pointer})[{count}]"),
                        plain => format!("{plain}[{count}]"),
                    };
                    element
                }
                Kind::FuncProto => {
                    let result = self.type_name_within(ty.size_or_type, depth)?;
                    return Ok(format!("{result} ({})(...)", suffix.trim_end()));
                }
                _ => {
                    let gap = if suffix.starts_with(['*', '(']) { " " } else { "" };
                    return Ok(format!("{qualifiers}{}{gap}{}", self.declared_name(ty), suffix.trim_end()));
                }
            };
            ty = self.type_by_id(inner)?;
        }
        Err(ty.malformed("too long a chain of types"))
    }

    fn declared_name(&self, ty: Type<'_>) -> String {
        let keyword = match ty.kind {
            Kind::Void => return "void".to_owned(),
            Kind::Struct => "struct ",
            Kind::Union => "union ",
            Kind::Fwd if ty.kind_flag => "union ",
            Kind::Fwd => "struct ",
            Kind::Enum | Kind::Enum64 => "enum ",
            _ => "",
        };
        match self.text(ty.name) {
            name if name.is_empty() => format!("{keyword}{{...}}"),
            name => format!("{keyword}{name}"),
        }
    }
}
