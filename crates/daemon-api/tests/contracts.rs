//! Rules that every contract in `proto/` must follow.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeSet, fs, path::Path};

use daemon_api::FILE_DESCRIPTOR_SET;
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto,
};

/// Sentence that the comment before `package` of each contract must have.
const ADDITIVE: &str = "From version 0.2.0 on this contract changes by addition only.";

/// Field numbers of descriptor.proto. The path of an element within a file consists of field
/// numbers and of indices.
mod number {
    pub(crate) const PACKAGE: i32 = 2;
    pub(crate) const MESSAGE: i32 = 4;
    pub(crate) const SERVICE: i32 = 6;
    pub(crate) const FIELD: i32 = 2;
    pub(crate) const NESTED: i32 = 3;
    pub(crate) const METHOD: i32 = 2;
}

/// One file of `proto/`.
struct ContractFile {
    proto: FileDescriptorProto,
}

impl ContractFile {
    /// Returns the comment before the element at `path`; empty if the element has no comment.
    fn comment(&self, path: &[i32]) -> &str {
        let locations = &self.proto.source_code_info.as_ref().unwrap().location;
        let location = locations.iter().find(|location| location.path == path);
        location.map_or("", |location| location.leading_comments().trim())
    }

    /// Returns every message with its path, including nested messages.
    fn messages(&self) -> Vec<(Vec<i32>, &DescriptorProto)> {
        fn add<'a>(
            path: Vec<i32>,
            message: &'a DescriptorProto,
            messages: &mut Vec<(Vec<i32>, &'a DescriptorProto)>,
        ) {
            for (index, nested) in (0..).zip(&message.nested_type) {
                let path = [&path[..], &[number::NESTED, index]].concat();
                add(path, nested, messages);
            }
            messages.push((path, message));
        }
        let mut messages = Vec::new();
        for (index, message) in (0..).zip(&self.proto.message_type) {
            add(vec![number::MESSAGE, index], message, &mut messages);
        }
        messages
    }

    fn enums(&self) -> Vec<&EnumDescriptorProto> {
        let messages = self.messages().into_iter();
        let nested = messages.flat_map(|(_, message)| &message.enum_type);
        self.proto.enum_type.iter().chain(nested).collect()
    }

    fn methods(&self) -> impl Iterator<Item = (Vec<i32>, &MethodDescriptorProto)> {
        let services = (0..).zip(&self.proto.service);
        services.flat_map(|(service, proto)| {
            let methods = (0..).zip(&proto.method);
            methods.map(move |(index, method)| {
                let path = vec![number::SERVICE, service, number::METHOD, index];
                (path, method)
            })
        })
    }

    /// Returns the names of the fields of the message `full_name`, which this file declares.
    fn fields_of(&self, full_name: &str) -> BTreeSet<&str> {
        let name = full_name.rsplit('.').next().unwrap();
        let mut messages = self.proto.message_type.iter();
        let message = messages.find(|message| message.name() == name);
        let fields = message.map(|message| &message.field);
        fields.into_iter().flatten().map(|it| it.name()).collect()
    }
}

fn files() -> Vec<ContractFile> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let ours = set.file.into_iter();
    ours.filter(|file| file.package().starts_with("portlb."))
        .map(|proto| ContractFile { proto })
        .collect()
}

/// Applies `faults` to each contract, and panics with all faults if there is one.
fn check(faults: impl Fn(&ContractFile) -> Vec<String>) {
    let mut all_faults = Vec::new();
    for file in files() {
        let name = file.proto.name();
        let faults = faults(&file).into_iter();
        all_faults.extend(faults.map(|fault| format!("{name}: {fault}")));
    }
    assert!(all_faults.is_empty(), "{all_faults:#?}");
}

#[test]
fn build_rs_compiles_every_file_of_the_folder_proto() {
    fn add(folder: &Path, files: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(&path, files);
            } else {
                files.insert(path.display().to_string());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut on_disk = BTreeSet::new();
    add(&root, &mut on_disk);
    let path = |file: &str| root.join(file).display().to_string();
    let compiled: BTreeSet<_> = files().iter().map(|it| path(it.proto.name())).collect();
    assert_eq!(compiled, on_disk);
}

#[test]
fn every_contract_says_that_it_changes_by_addition_only() {
    check(|file| {
        let head = file.comment(&[number::PACKAGE]);
        let head = head.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_missing = !head.contains(ADDITIVE);
        let fault = format!("the comment of the package lacks {ADDITIVE:?}");
        is_missing.then_some(fault).into_iter().collect()
    });
}

#[test]
fn every_method_and_every_field_has_a_comment() {
    check(|file| {
        let methods = file.methods();
        let methods = methods.map(|(path, method)| (path, method.name().to_owned()));
        let messages = file.messages();
        let fields = messages.iter().flat_map(|(path, message)| {
            let fields = (0..).zip(&message.field);
            fields.map(move |(index, field)| {
                let path = [&path[..], &[number::FIELD, index]].concat();
                (path, format!("{}.{}", message.name(), field.name()))
            })
        });
        let all = methods.chain(fields);
        all.filter(|(path, _)| file.comment(path).is_empty())
            .map(|(_, name)| format!("{name} has no comment"))
            .collect()
    });
}

#[test]
fn the_value_zero_of_every_enum_is_unspecified() {
    check(|file| {
        let zeros = file.enums().into_iter().map(|it| it.value[0].name());
        zeros
            .filter(|zero| !zero.ends_with("_UNSPECIFIED"))
            .map(|zero| format!("{zero}: the value 0 must be named ..._UNSPECIFIED"))
            .collect()
    });
}

#[test]
fn no_field_of_a_contract_is_a_number_of_seconds() {
    check(|file| {
        let messages = file.messages().into_iter();
        let fields = messages.flat_map(|(_, message)| &message.field);
        fields
            .map(|field| field.name())
            .filter(|name| name.ends_with("seconds") || name.contains("seconds_"))
            .map(|name| format!("{name}: use google.protobuf.Duration"))
            .collect()
    });
}

#[test]
fn request_and_response_types_are_named_after_their_method() {
    check(|file| {
        let package = file.proto.package();
        let mut faults = Vec::new();
        for (_, method) in file.methods() {
            let name = method.name();
            let messages = [
                (method.input_type(), format!(".{package}.{name}Request")),
                (method.output_type(), format!(".{package}.{name}Response")),
            ];
            let others = messages.into_iter().filter(|(is, wanted)| is != wanted);
            faults.extend(others.map(|(is, wanted)| format!("{is}: rename to {wanted}")));
        }
        faults
    });
}

#[test]
fn every_list_method_has_the_fields_of_pages() {
    check(|file| {
        let lists = file.methods().map(|(_, method)| method);
        let lists = lists.filter(|method| method.name().starts_with("List"));
        lists
            .filter(|method| {
                let request = file.fields_of(method.input_type());
                let response = file.fields_of(method.output_type());
                !request.is_superset(&["page_size", "page_token"].into())
                    || !response.contains("next_page_token")
            })
            .map(|method| format!("{} lacks a field of a paged list", method.name()))
            .collect()
    });
}

#[test]
fn every_service_name_ends_in_service() {
    check(|file| {
        let services = file.proto.service.iter();
        let others = services.filter(|service| !service.name().ends_with("Service"));
        others.map(|service| service.name().to_owned()).collect()
    });
}
