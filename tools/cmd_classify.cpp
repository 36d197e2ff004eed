// offramp classify: pictures in, classes out, the whole cascade in this process.

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/cascade.h"
#include "engine/error.h"
#include "tools/command.h"
#include "tools/compute_options.h"
#include "tools/options.h"
#include "tools/output.h"
#include "tools/pictures.h"
#include "tools/rule_options.h"

namespace offramp::cli {
namespace {

using SteadyClock = std::chrono::steady_clock;

double microseconds_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double, std::micro>(SteadyClock::now() - begin).count();
}

struct Answer {
  std::string picture;
  Decision decision;
  double prepare_us = 0.0;
  double compute_us = 0.0;
};

class Classify : public Command {
 public:
  explicit Classify(CLI::App& root)
      : Command(root.add_subcommand("classify", "Classify pictures in this process")) {
    app()
        ->add_option("IMAGE", images_,
                     "JPEG, PNG or BMP files, or folders; - reads\none from standard input")
        ->required()
        ->option_text("...");
    model_.add_to(*app());
    rules_.add_to(*app());
    compute_.add_to(*app());
    app()->add_flag("--json", json_, "one JSON object a line");
    app()->footer(
        "Examples:\n"
        "  offramp classify cat.png ship.jpg\n"
        "  offramp classify --thresholds 0.2,0.4 cat.png\n"
        "  offramp classify --target 0.3 cat.png\n"
        "  curl -s https://example.org/cat.png | offramp classify - --json");
  }

  int run() override {
    images_ = with_folders_opened(images_);
    const Model model = load_model(model_.path());
    const std::vector<Stage> stages =
        compile_stages(model, rules_.read(model), compute_.plan(model, 1));
    CascadeMemory memory = make_cascade_memory(stages);
    std::vector<float> input(model.preprocess.input.elements());
    const Table table = columns(model);
    int code = 0;
    bool begun = false;
    for (const std::string& image : images_) {
      Answer answer;
      answer.picture = image;
      const SteadyClock::time_point begin = SteadyClock::now();
      try {
        preprocess(open_picture(image), model.preprocess, input.data());
      } catch (const Error& error) {
        complain(error.what());
        if (code == 0) code = static_cast<int>(error.kind());
        continue;
      }
      answer.prepare_us = microseconds_since(begin);
      const SteadyClock::time_point prepared = SteadyClock::now();
      run_cascade(stages, {input.data(), 1, model.preprocess.input}, memory, {&answer.decision, 1});
      answer.compute_us = microseconds_since(prepared);
      if (!json_ && !std::exchange(begun, true)) print(table.header());
      show(model, answer, table);
    }
    return code;
  }

 private:
  Table columns(const Model& model) const {
    using enum Table::Align;
    std::size_t exit_width = 0;
    for (const Exit& exit : model.graph.exits) exit_width = std::max(exit_width, exit.name.size());
    return Table({{"PICTURE", kLeft, name_width(images_)},
                  {"CLASS", kLeft, class_width(model)},
                  {"PROB", kRight, 8},
                  {"EXIT", kLeft, exit_width},
                  {rules_.nats ? "NATS" : "ENTROPY", kRight, 7},
                  {"PREPARE", kRight, 8},
                  {"COMPUTE", kRight, 8}});
  }

  void show(const Model& model, const Answer& answer, const Table& table) const {
    const Decision& decision = answer.decision;
    const std::string& label = model.classes.at(static_cast<std::size_t>(decision.label));
    const std::string& exit = model.graph.exits.at(static_cast<std::size_t>(decision.exit)).name;
    const EntropyUnit unit = rules_.unit(model);
    const double entropy = unit.shown(static_cast<double>(decision.entropy));
    if (json_) {
      print_json({{"picture", answer.picture},
                  {"class", label},
                  {"label", decision.label},
                  {"probability", decision.probability},
                  {"exit", exit},
                  {"entropy", entropy},
                  {"unit", unit.name()},
                  {"prepare_ms", answer.prepare_us / 1e3},
                  {"compute_ms", answer.compute_us / 1e3}});
      return;
    }
    print(table.line(
        {answer.picture, label, format_percent(static_cast<double>(decision.probability)), exit,
         format_entropy(entropy), format_ms(answer.prepare_us), format_ms(answer.compute_us)}));
  }

  std::vector<std::string> images_;
  ModelOption model_;
  RuleOptions rules_;
  ComputeOptions compute_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_classify(CLI::App& root) { return std::make_unique<Classify>(root); }

}  // namespace offramp::cli
